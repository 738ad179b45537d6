package main

import (
	"context"

	"github.com/spf13/cobra"

	"snap/store"
)

// archiveForms says what a DEST of commands that look at dumps can be.
const archiveForms = "a folder, or s3://BUCKET/PREFIX/"

// openArchive opens where dumps lie, as the command line names it.
func (a *app) openArchive(ctx context.Context, dest string) (store.Archive, error) {
	return store.OpenArchive(ctx, dest, store.Options{S3: a.s3.options()})
}

// completeArchives completes a DEST of commands that look at dumps.
func completeArchives(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}
