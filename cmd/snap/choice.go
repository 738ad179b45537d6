package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// choice is a flag that takes one of a list of words, which is the library's.
type choice[T ~string] struct {
	value T
	of    []T
}

// addChoice gives cmd a flag that takes one of the words of of, the first of
// which is the default, and completion of them.
func addChoice[T ~string](cmd *cobra.Command, c *choice[T], name string, of []T, usage string) {
	*c = choice[T]{value: of[0], of: of}
	cmd.Flags().Var(c, name, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(c.words(), cobra.ShellCompDirectiveNoFileComp))
}

// Set implements pflag.Value.
func (c *choice[T]) Set(s string) error {
	if !slices.Contains(c.of, T(s)) {
		err := fmt.Errorf("it can be %s", alternatives(c.words()))
		if meant := didYouMean(s, c.words()); meant != "" {
			err = fmt.Errorf("%w: %s", err, meant)
		}
		return err
	}
	c.value = T(s)
	return nil
}

// String implements pflag.Value.
func (c *choice[T]) String() string { return string(c.value) }

// Type implements pflag.Value: what help calls the argument.
func (c *choice[T]) Type() string { return "word" }

func (c *choice[T]) words() []string {
	var out []string
	for _, w := range c.of {
		out = append(out, string(w))
	}
	return out
}

// alternatives joins words as a person does: "a, b or c".
func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
