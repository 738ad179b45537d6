package main

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// inline are the files that make errors which have no name of their own, and don't wrap
// another: what they are to the operator whom they reach. It is a cause of
// inSituations, in which they are wrapped where they leave the package, or why no
// advice is wanted.
var inline = map[string]string{
	"cmd/snap/internal/limits/available.go": "a limit of the host's that isn't known, and not kept",
	"hv/internal/pidns/pidns.go":            "a reason within hv.ErrUnsupported, or a process that isn't believed",
	"hv/qemu/internal/procmem/maps.go":      "hv.ErrUnsupported",
	"hv/qemu/internal/procmem/pagemap.go":   "hv.ErrUnsupported",
	"capture/contextplace.go":               "a warning: a context is not laid where something else is",
	"capture/custody.go":                    finding,
	"capture/kept.go":                       finding,
	"capture/mode.go":                       usage,
	"capture/overlays.go":                   own,
	"capture/sourceaccount.go":              "a warning: the account inside the source isn't taken over",
	"capture/take.go":                       "a warning: what can't be verified",
	"cmd/snap/choice.go":                    usage,
	"cmd/snap/destination.go":               "has its advice there",
	"dump/budget.go":                        usage,
	"dump/container_zip.go":                 "dump.ErrFormat",
	"dump/container_zstd.go":                "dump.ErrFormat",
	"dump/file.go":                          own,
	"dump/gzipmembers.go":                   "dump.ErrFormat",
	"dump/options.go":                       usage,
	"dump/pipeline.go":                      usage,
	"dump/verify/guestchecks.go":            finding,
	"dump/verify/headerchecks.go":           finding,
	"dump/verify/readerchecks.go":           finding,
	"dump/verify/memorychecks.go":           finding,
	"dump/worker.go":                        "dump.ErrEncoding",
	"exclude/ranges.go":                     "exclude.ErrRange",
	"exclude/removepages.go":                "a request that is refused, in the account",
	"guest/believe.go":                      "guest.ErrNotWindows",
	"guest/processors.go":                   "a warning: what the guest's KDBG lacks",
	"header/bitmapencode.go":                own,
	"header/initialize.go":                  own,
	"header/make.go":                        own,
	"hv/file/kdumppage.go":                  "hv.ErrFormat",
	"hv/guardian/gate.go":                   "hv.ErrUnsupported",
	"hv/guardian/process.go":                "a process that isn't believed to be the one of the state file",
	"hv/guardian/promise.go":                "guardian.ErrProcess",
	"hv/guardian/serve.go":                  "guardian.ErrProcess",
	"hv/guardian/state.go":                  "guardian.FolderError",
	"hv/libvirt/config.go":                  "hv.ErrNotUnderstood",
	"hv/libvirt/files.go":                   own,
	"hv/libvirt/pause.go":                   "hv.ErrStillPaused",
	"hv/libvirt/peerproc.go":                "hv.ErrUnsupported",
	"hv/libvirt/target.go":                  "hv.ErrURI",
	"hv/qemu/credentials.go":                "a reason why there is no snapshot, within hv.ErrUnsupported",
	"hv/qemu/direct.go":                     "hv.ErrUnsupported",
	"hv/qemu/mtree.go":                      "hv.ErrNotUnderstood",
	"hv/qemu/rammap.go":                     "hv.ErrNotUnderstood",
	"hv/qemu/registers.go":                  "hv.ErrNotUnderstood",
	"hv/qemu/regvalues.go":                  "hv.ErrNotUnderstood",
	"hv/qemu/vmstate/cpu.go":                "hv.ErrFormat",
	"hv/qemu/vmstate/describe.go":           "hv.ErrFormat",
	"input/xz.go":                           "input.ErrCompression",
	"phys/runs.go":                          own,
	"store/scatter.go":                      own,
	"store/sparse.go":                       own,
}

// Reasons for which no row of causes is wanted.
const (
	usage   = "what was asked for can't be: it says what can, and help says more"
	own     = "a fault of snap's own: -v"
	finding = "a finding of verify's, which has its own line"
)

// TestInlineErrors finds every place in the source that makes an error without a name,
// and demands to know what it is to an operator.
func TestInlineErrors(t *testing.T) {
	found := inlineInSource(t)
	if len(found) < 20 {
		t.Fatalf("%d files with such errors were found: %v; want all of them", len(found), found)
	}
	causes := inSituations()
	for _, file := range slices.Sorted(maps.Keys(found)) {
		what, told := inline[file]
		switch _, known := causes[what]; {
		case !told:
			t.Errorf("%s:%d makes an error without a name; what does an operator do about it? Give it a class of causes, and a row here", file, found[file][0])
		case !known && !strings.Contains(what, " "):
			t.Errorf("%s is said to be %q, which is no cause of inSituations", file, what)
		}
	}
	for file := range inline {
		if _, ok := found[file]; !ok {
			t.Errorf("%s is in the table here, and makes no such error", file)
		}
	}
}

// inlineInSource returns the lines of the program's own files that make such errors.
func inlineInSource(t *testing.T) map[string][]int {
	t.Helper()
	found := map[string][]int{}
	eachSource(t, func(path string, set *token.FileSet, f *ast.File) {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok && makesNameless(e) {
					found[path] = append(found[path], set.Position(e.Pos()).Line)
				}
				return true
			})
		}
	})
	return found
}

// makesNameless reports whether an expression makes an error that wraps none.
func makesNameless(e ast.Expr) bool {
	if !makesError(e) {
		return false
	}
	c, _ := e.(*ast.CallExpr)
	if len(c.Args) == 0 {
		return false
	}
	lit, ok := c.Args[0].(*ast.BasicLit)
	if !ok {
		return false // a format that has a name
	}
	text, err := strconv.Unquote(lit.Value)
	return err == nil && !strings.Contains(text, "%w")
}
