package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set at link time.
var version = "unknown"

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Short:       "Print the version of snap",
		Args:        cobra.NoArgs,
		Annotations: exitCodes(),
		Example:     "  snap version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(a.stdout, "%s %s\n", cmd.Root().Name(), versionText())
			return err
		},
	}
}

// versionText is what the program says of its version.
func versionText() string {
	return fmt.Sprintf("%s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
