package limits

import (
	"os"
	"testing"
	"testing/fstest"
)

func TestAvailable(t *testing.T) {
	const meminfo = "MemTotal:       24683520 kB\nMemFree:         1000000 kB\nMemAvailable:    2000000 kB\n"
	const host = 2000000 << 10
	v2 := map[string]string{
		"proc/self/cgroup":                          "0::/machine/snap\n",
		"sys/fs/cgroup/machine/snap/memory.max":     "max\n",
		"sys/fs/cgroup/machine/snap/memory.current": "500\n",
		"sys/fs/cgroup/machine/memory.max":          "1000000\n",
		"sys/fs/cgroup/machine/memory.current":      "700000\n",
		"sys/fs/cgroup/machine/memory.stat":         "anon 100\ninactive_file 200000\nactive_file 5\n",
	}
	v1 := map[string]string{
		"proc/self/cgroup": "5:cpu:/a\n4:memory:/a/b\n0::/\n",
		"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
		"sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "4096\n",
		"sys/fs/cgroup/memory/a/memory.limit_in_bytes":   "8192\n",
		"sys/fs/cgroup/memory/a/memory.usage_in_bytes":   "4096\n",
	}
	over := map[string]string{
		"proc/self/cgroup":             "0::/\n",
		"sys/fs/cgroup/memory.max":     "100\n",
		"sys/fs/cgroup/memory.current": "300\n",
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  uint64
	}{
		{"no groups", nil, host},
		{"version 2", v2, 1000000 - 500000},
		{"version 1", v1, 4096},
		{"above its limit", over, 0},
		{"a group elsewhere", map[string]string{"proc/self/cgroup": "0::/../outside\n"}, host},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{"proc/meminfo": {Data: []byte(meminfo)}}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got, err := Available(root); err != nil || got != tt.want {
				t.Errorf("Available() = %d, %v; want %d", got, err, tt.want)
			}
		})
	}
	if got, err := Available(fstest.MapFS{}); err == nil {
		t.Errorf("Available() = %d without meminfo; want an error", got)
	}
	if got, err := Available(os.DirFS("/")); err != nil || got == 0 {
		t.Errorf("Available() = %d, %v on this host; want some", got, err)
	}
}
