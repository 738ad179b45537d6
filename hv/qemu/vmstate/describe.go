package vmstate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"snap/phys"
)

const (
	// maxDescription bounds the JSON text; a processor takes some 14 KB of it.
	maxDescription = 128 << 20
	// maxBody bounds what a device can have.
	maxBody = 1 << 30
	// maxDepth bounds subsections in subsections.
	maxDepth = 16
)

// deviceKey names a section of a device.
type deviceKey struct {
	name     string
	instance uint32
}

// deviceShape is what the description says of a section.
type deviceShape struct {
	version uint32
	size    uint64 // of the body
}

// fieldJSON is a field of the description. A field that is a structure has in
// size what is nested in it.
type fieldJSON struct {
	Name     string  `json:"name"`
	Size     uint64  `json:"size"`
	ArrayLen *uint64 `json:"array_len"` // if there, size is that of one element
}

// structJSON is a device or a subsection of the description. The lists stay
// text until they are walked, so that no count in the text becomes memory.
type structJSON struct {
	Name        string          `json:"name"`
	InstanceID  uint32          `json:"instance_id"`
	VMSDName    string          `json:"vmsd_name"`
	Version     uint32          `json:"version"`
	Fields      json.RawMessage `json:"fields"`
	Subsections json.RawMessage `json:"subsections"`
}

// parseDescription returns what the description (QEMU: migration/savevm.c and
// migration/vmstate.c) says of each section.
func parseDescription(text []byte) (map[deviceKey]deviceShape, error) {
	var shapes map[deviceKey]deviceShape
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("description is no JSON object: %w", tokenErr(err))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch key {
		case "page_size":
			var n uint64
			if err := d.Decode(&n); err != nil {
				return nil, err
			}
			if n != phys.PageSize {
				return nil, fmt.Errorf("pages of %d bytes; want %d", n, phys.PageSize)
			}
		case "devices":
			if shapes != nil {
				return nil, errors.New("two lists of devices")
			}
			if shapes, err = devices(d); err != nil {
				return nil, err
			}
		default:
			var skip json.RawMessage
			if err := d.Decode(&skip); err != nil {
				return nil, err
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if d.InputOffset() != int64(len(text)) {
		return nil, errors.New("text follows the description")
	}
	if shapes == nil {
		return nil, errors.New("no list of devices")
	}
	return shapes, nil
}

// tokenErr is err, or the error that another token was there than expected.
func tokenErr(err error) error {
	if err == nil {
		return errors.New("another token")
	}
	return err
}

// devices reads the array of devices.
func devices(d *json.Decoder) (map[deviceKey]deviceShape, error) {
	shapes := make(map[deviceKey]deviceShape)
	err := each(d, func() error {
		var dev structJSON
		if err := d.Decode(&dev); err != nil {
			return err
		}
		k := deviceKey{dev.Name, dev.InstanceID}
		if _, ok := shapes[k]; ok {
			return fmt.Errorf("section %q instance %d is described twice", k.name, k.instance)
		}
		if len(shapes) == maxSections {
			return fmt.Errorf("more than %d sections", maxSections)
		}
		size, err := dev.size(0)
		if err == nil && dev.Name == cpuName {
			err = checkCPULayout(dev.Fields)
		}
		if err != nil {
			return fmt.Errorf("section %q instance %d: %w", k.name, k.instance, err)
		}
		shapes[k] = deviceShape{dev.Version, size}
		return nil
	})
	return shapes, err
}

// each calls f at each element of the array that d is in front of.
func each(d *json.Decoder, f func() error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("want an array: %w", tokenErr(err))
	}
	for d.More() {
		if err := f(); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// size returns the bytes that s takes in the stream, without its own header.
func (s *structJSON) size(depth int) (uint64, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("more than %d levels of subsections", maxDepth)
	}
	size, err := walkFields(s.Fields, func(field) {})
	if err != nil || len(s.Subsections) == 0 {
		return size, err
	}
	d := json.NewDecoder(bytes.NewReader(s.Subsections))
	err = each(d, func() error {
		var sub structJSON
		if err := d.Decode(&sub); err != nil {
			return err
		}
		n, err := sub.size(depth + 1)
		// Type byte, name and version come before a subsection's fields.
		size += 1 + 1 + uint64(len(sub.VMSDName)) + 4 + n
		if err == nil && size > maxBody {
			err = fmt.Errorf("more than %d bytes", maxBody)
		}
		return err
	})
	return size, err
}

// walkFields calls visit for each field of a list and returns the sum of their
// sizes.
func walkFields(list json.RawMessage, visit func(field)) (uint64, error) {
	if len(list) == 0 {
		return 0, nil
	}
	var sum uint64
	d := json.NewDecoder(bytes.NewReader(list))
	err := each(d, func() error {
		var f fieldJSON
		if err := d.Decode(&f); err != nil {
			return err
		}
		n := uint64(1)
		if f.ArrayLen != nil {
			n = *f.ArrayLen
		}
		if f.Size > maxBody || n > maxBody || f.Size*n > maxBody-sum {
			return fmt.Errorf("more than %d bytes", maxBody)
		}
		visit(field{f.Name, sum, f.Size * n})
		sum += f.Size * n
		return nil
	})
	return sum, err
}

// checkCPULayout holds the description of a processor against what is read.
func checkCPULayout(list json.RawMessage) error {
	at := make(map[string]field)
	for _, f := range cpuFields {
		at[f.name] = f
	}
	var wrong error
	_, err := walkFields(list, func(got field) {
		want, ok := at[got.name]
		if ok && got != want && wrong == nil {
			wrong = fmt.Errorf("field %s has %d bytes at %d; want %d at %d", got.name, got.size, got.off, want.size, want.off)
		}
		delete(at, got.name)
	})
	if err != nil {
		return err
	}
	for _, f := range cpuFields {
		if _, ok := at[f.name]; ok && wrong == nil {
			wrong = fmt.Errorf("field %s is missing", f.name)
		}
	}
	return wrong
}
