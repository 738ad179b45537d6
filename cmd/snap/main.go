// Command snap takes crash dumps of running Windows guests from the host.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx := interruptible(context.Background())
	os.Exit(runWith(ctx, calledAs(os.Args[0]), commands(), os.Args[1:], os.Stdout, os.Stderr))
}

// interruptible returns a context that ends with the first SIGINT, SIGTERM or
// SIGHUP: all is undone and the program ends by itself. The second SIGINT or
// SIGTERM ends it there and then, whatever it waits for: a file system that hangs,
// a daemon that doesn't answer, or somebody to read its messages. What is left to
// undo then is the guardian's. (A terminal that goes away sends SIGHUP more than
// once.)
func interruptible(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	first := make(chan os.Signal, 1)
	signal.Notify(first, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-first
		cancel()
		second := make(chan os.Signal, 1)
		signal.Notify(second, syscall.SIGINT, syscall.SIGTERM)
		<-second
		os.Exit(exitInterrupted)
	}()
	return ctx
}
