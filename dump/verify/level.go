package verify

// Level says how much a finding matters.
type Level string

// The levels, the gravest first.
const (
	// LevelFail: no reader can use the dump, or not what the check is about; or it
	// is of a kind that can't be judged.
	LevelFail Level = "fail"
	// LevelLimit: the readers that are named refuse the dump or misread it; others
	// open it.
	LevelLimit Level = "limit"
	// LevelNote: the dump differs from what snap writes, and no reader is known to
	// mind: Windows, LiveKD and debuggers write such dumps.
	LevelNote Level = "note"
)

// Reader is a program that reads dumps, as it is called.
type Reader string

// The readers whose demands are known well enough to be checked one by one, with
// the public source of what they check.
const (
	// WinDbg is dbgeng: what MemProcFS's and LiveCloudKd's writers say that it
	// demands, and what it is seen to do with other tools' dumps.
	WinDbg Reader = "WinDbg"
	// KdmpParser is 0vercl0k's kdmp-parser (src/lib/kdmp-parser.h).
	KdmpParser Reader = "kdmp-parser"
	// LeechCore is ufrisk's, under MemProcFS (leechcore/device_file.c).
	LeechCore Reader = "LeechCore"
	// Memflow is memflow-coredump (src/native/x64.rs, bitmap_dump.rs,
	// full_memory_dump.rs).
	Memflow Reader = "memflow"
	// Radare2 is radare2 (libr/bin/format/dmp/dmp64.c).
	Radare2 Reader = "radare2"
	// Volatility2 is volatility 2 (plugins/addrspaces/crash.py, crashbmp.py).
	Volatility2 Reader = "volatility 2"
	// Volatility3 is volatility3 (framework/layers/crash.py).
	Volatility3 Reader = "volatility3"
)
