package capture

import (
	"bufio"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// hostLoad is how busy the host is beside this process.
type hostLoad struct {
	Waiting float64 // tasks that wait for a processor, for each processor
	Stolen  float64 // part of the processors' time that a hypervisor below the host took, 0 to 1
}

// factor is by how much longer than measured something may take.
func (l hostLoad) factor() float64 {
	f := calmFactor + busyFactor*l.Waiting
	if l.Stolen > 0 {
		f /= 1 - min(l.Stolen, 0.9)
	}
	return min(f, mostFactor)
}

// procStat is what /proc/stat says at a moment (proc(5)): times of all processors in
// ticks, and the tasks that run or could.
type procStat struct {
	all, stolen uint64
	running     uint64
	known       bool
}

// maxStatLines bounds /proc/stat: it has a line for each processor and few more.
const maxStatLines = 1 << 16

// readProcStat reads /proc/stat of proc. What can't be read is not known: an
// estimate has to do without it.
func readProcStat(proc fs.FS) procStat {
	f, err := proc.Open("stat")
	if err != nil {
		return procStat{}
	}
	defer f.Close()
	var s procStat
	in := bufio.NewScanner(f)
	for line := 0; in.Scan() && line < maxStatLines; line++ {
		words := strings.Fields(in.Text())
		switch {
		case len(words) >= 9 && words[0] == "cpu":
			// user nice system idle iowait irq softirq steal; guest times are in user's.
			for i, w := range words[1:9] {
				n, err := strconv.ParseUint(w, 10, 64)
				if err != nil {
					return procStat{}
				}
				s.all += n
				if i == 7 {
					s.stolen = n
				}
			}
			s.known = true
		case len(words) == 2 && words[0] == "procs_running":
			s.running, _ = strconv.ParseUint(words[1], 10, 64)
		}
	}
	return s
}

// loadMeter measures the load of the host over a time.
type loadMeter struct {
	proc    fs.FS
	cpus    int
	first   procStat
	last    procStat
	running []uint64 // tasks that run or could, but for ours
}

func newLoadMeter() *loadMeter {
	m := &loadMeter{proc: os.DirFS("/proc"), cpus: runtime.NumCPU()}
	m.first = readProcStat(m.proc)
	return m
}

// look looks once more. ours is how many of this process's threads work right now.
func (m *loadMeter) look(ours int) {
	m.last = readProcStat(m.proc)
	if m.last.known {
		m.running = append(m.running, m.last.running-min(m.last.running, uint64(ours)))
	}
}

// load returns what was seen so far.
func (m *loadMeter) load() hostLoad {
	var l hostLoad
	if n := len(m.running); n > 0 && m.cpus > 0 {
		var sum uint64
		for _, r := range m.running {
			sum += r
		}
		l.Waiting = float64(sum) / float64(n) / float64(m.cpus)
	}
	if all := m.last.all - min(m.last.all, m.first.all); all > 0 && m.first.known {
		l.Stolen = float64(m.last.stolen-min(m.last.stolen, m.first.stolen)) / float64(all)
	}
	return l
}
