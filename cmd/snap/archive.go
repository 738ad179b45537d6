package main

import (
	"context"

	"github.com/spf13/cobra"

	"snap/catalog"
	"snap/store"
)

// archiveForms says what a DEST of commands that look at dumps can be.
const archiveForms = "a folder, or s3://BUCKET/PREFIX/"

// catalogue opens where dumps lie, as the command line names it, and looks what is there.
func (a *app) catalogue(ctx context.Context, dest string) (store.Archive, []catalog.Entry, error) {
	archive, err := store.OpenArchive(ctx, dest, store.Options{S3: a.s3.options()})
	if err != nil {
		return nil, nil, err
	}
	entries, err := catalog.Read(ctx, archive)
	return archive, entries, err
}

// completeArchives completes a DEST of commands that look at dumps.
func completeArchives(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}
