package guardian

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// Roles that the test's program plays as another process.
const (
	roleGate  = "gate"
	roleOwner = "owner" // of a gate, in snap's place
)

// TestMain lets the program be another process of a dump.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	var err error
	switch os.Args[1] {
	case roleGate:
		err = ServeGate()
	case roleOwner:
		err = ownGate(os.Args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ownGate has a gate for so long, says its path, and goes on for ever.
func ownGate(during string) error {
	d, err := time.ParseDuration(during)
	if err != nil {
		return err
	}
	g, err := openGate(context.Background(), []string{"snap", roleGate})
	if err != nil {
		return err
	}
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	if err := g.Arm(until); err != nil {
		return err
	}
	fmt.Println(g.Path())
	select {}
}
