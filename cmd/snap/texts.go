package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// textExamples are the flags that take any text, each with what it may be. None takes an
// empty one: that is what a script has of a variable that nobody set, and to go on as if
// nothing had been asked for is not what was meant.
func textExamples() map[string]string {
	return map[string]string{
		"encrypt-to":     "a public key, such as age1…, or @FILE",
		"identity":       "a file with a private key, such as age.key",
		"keep-local":     "a folder, such as /backup",
		"keep-within":    errSpan.Error(),
		"manifest":       "a manifest, such as web01.dmp.zst.json",
		"max-total":      "a size, such as 512M",
		"s3-credentials": "a file, such as /etc/snap/s3",
		"s3-endpoint":    "a URL, such as https://s3.example.com",
		"s3-region":      "a region, such as eu-central-1",
		"s3-retain":      retainForm,
		"sign-key":       "a private key of ssh, such as ~/.ssh/id_ed25519",
		"summary":        "a file, such as web01.json",
	}
}

// refuseEmptyTexts fails if a flag was given and nothing with it.
func refuseEmptyTexts(cmd *cobra.Command) error {
	examples := textExamples()
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		takes, ok := examples[f.Name]
		if !ok || !f.Changed || f.Value.Type() == "bool" || err != nil {
			return
		}
		texts := []string{f.Value.String()}
		if many, ok := f.Value.(pflag.SliceValue); ok {
			texts = many.GetSlice()
		}
		if slices.Contains(texts, "") {
			err = wrongValue(f.Name, "", takes)
		}
	})
	return err
}
