package manifest

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaPath = "../docs/manifest.schema.json"

// object is a part of the schema: what the Go types are held against.
type object struct {
	Description          string             `json:"description"`
	Type                 string             `json:"type"`
	Ref                  string             `json:"$ref"`
	Enum                 []string           `json:"enum"`
	Format               string             `json:"format"`
	Required             []string           `json:"required"`
	Properties           map[string]*object `json:"properties"`
	AdditionalProperties *object            `json:"additionalProperties"`
	Items                *object            `json:"items"`
	Defs                 map[string]*object `json:"$defs"`
}

func readSchema(t *testing.T) *object {
	t.Helper()
	b, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// TestSchemaIsOfTheTypes holds the schema and the Go types against each other:
// each JSON name of one is in the other, with its type, and is required just if
// it is always written.
func TestSchemaIsOfTheTypes(t *testing.T) {
	root := readSchema(t)
	walk := schemaWalk{t: t, defs: root.Defs, seen: map[string]bool{"Hex": true}}
	walk.structure("Manifest", root, reflect.TypeFor[Manifest]())
	for name, def := range root.Defs {
		if !walk.seen[name] {
			t.Errorf("$defs/%s is of no Go type", name)
		}
		if def.Description == "" {
			t.Errorf("$defs/%s has no description", name)
		}
	}
}

type schemaWalk struct {
	t    *testing.T
	defs map[string]*object
	seen map[string]bool
}

func (w *schemaWalk) structure(at string, o *object, typ reflect.Type) {
	var names, always []string
	for f := range typ.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
		if options == "" {
			always = append(always, name)
		}
		p := o.Properties[name]
		if p == nil {
			w.t.Errorf("%s: Go's %s is not in the schema", at, name)
			continue
		}
		if len(p.Description) < 10 || !strings.HasSuffix(p.Description, ".") {
			w.t.Errorf("%s.%s is described as %q; want a sentence", at, name, p.Description)
		}
		w.value(at+"."+name, p, f.Type)
	}
	for name := range o.Properties {
		if !slices.Contains(names, name) {
			w.t.Errorf("%s: the schema's %s is no Go field", at, name)
		}
	}
	if diff := cmp.Diff(always, o.Required); diff != "" {
		w.t.Errorf("%s: required names differ from those that are always written (-want +got):\n%s", at, diff)
	}
}

// value holds one value's schema against its Go type.
func (w *schemaWalk) value(at string, o *object, typ reflect.Type) {
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	want := object{}
	switch {
	case typ == reflect.TypeFor[time.Time]():
		want.Type, want.Format = "string", "date-time"
	case typ == reflect.TypeFor[Hex]():
		want.Ref = "#/$defs/Hex"
	case typ == reflect.TypeFor[Kept]():
		want.Type = "object" // of any names: it is another's
	case typ.Kind() == reflect.Struct:
		want.Ref = "#/$defs/" + typ.Name()
		w.define(typ)
	case typ.Kind() == reflect.Slice:
		want.Type = "array"
		if o.Items == nil {
			w.t.Errorf("%s has no items", at)
			return
		}
		w.value(at+"[]", o.Items, typ.Elem())
	case typ.Kind() == reflect.Map:
		want.Type = "object"
		if o.AdditionalProperties == nil {
			w.t.Errorf("%s says nothing of its values", at)
			return
		}
		w.value(at+"{}", o.AdditionalProperties, typ.Elem())
	case typ.Kind() == reflect.String && len(o.Enum) > 0:
	case typ.Kind() == reflect.String:
		want.Type = "string"
	case typ.Kind() == reflect.Bool:
		want.Type = "boolean"
	case typ.Kind() == reflect.Float64:
		want.Type = "number"
	case typ.Kind() >= reflect.Int && typ.Kind() <= reflect.Uint64:
		want.Type = "integer"
	default:
		w.t.Errorf("%s is a %v, which this test knows no schema for", at, typ)
	}
	if o.Type != want.Type || o.Ref != want.Ref || o.Format != want.Format {
		w.t.Errorf("%s is %+v; want type %q, $ref %q, format %q", at, *o, want.Type, want.Ref, want.Format)
	}
}

func (w *schemaWalk) define(typ reflect.Type) {
	def := w.defs[typ.Name()]
	if def == nil {
		w.t.Errorf("$defs has no %s", typ.Name())
		return
	}
	if !w.seen[typ.Name()] {
		w.seen[typ.Name()] = true
		w.structure(typ.Name(), def, typ)
	}
}

// compileSchema makes a validator that checks formats too.
func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, doc []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(doc)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestSchemaTakesManifests(t *testing.T) {
	s := compileSchema(t)
	for name, m := range map[string]*Manifest{
		"sample": sample(),
		"empty":  {Snap: "1.0", Verify: &Verify{}},
	} {
		b, err := m.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, b); err != nil {
			t.Errorf("the %s manifest is refused: %v\n%s", name, err, b)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	b, err := sample().Compact()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, old, new string }{
		{"an address as a number", `"kernel_base":"0xfffff8040b400000"`, `"kernel_base":18446735295018532864`},
		{"an address without 0x", `"kernel_base":"0x`, `"kernel_base":"`},
		{"a hash that is none", `"bytes":`, `"sha256":"cafe","bytes":`},
		{"a kind that is none", `"kind":"virtual"`, `"kind":"linear"`},
		{"no warnings", `,"warnings":["`, `,"warning":["`},
		{"a time of day", `"started":"2026-11-22T01:00:00.123456789Z"`, `"started":"01:00"`},
		{"a moment that is none", `"consistency":"different times"`, `"consistency":"maybe"`},
		{"half a page", `"written":9`, `"written":8.5`},
		{"pages below none", `"written":9`, `"written":-9`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc := strings.Replace(string(b), tt.old, tt.new, 1)
			if doc == string(b) {
				t.Fatalf("%s is not in %s", tt.old, b)
			}
			if err := validate(t, s, []byte(doc)); err == nil {
				t.Errorf("the schema takes %s", doc)
			}
		})
	}
}
