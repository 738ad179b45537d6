package main

// spec says which rows of the tables make a profile.
type spec struct {
	profile string
	row     string // version in kernels.csv
	kdbg    string // how its generation begins in kdbg_sizes.csv
	image   string // version in kernel_images.csv whose SizeOfImage it has; "" for none
	build   uint32 // where the row doesn't say a single one
	borrows string // version of the row that has the columns that row lacks; "" for none
}

// specs are the generations of 64-bit Windows, the oldest first, and then those of
// 32-bit Windows. Rows with RVAs are
// single kernels; where a generation has none, the row is of its structures alone. An
// image that isn't the row's very version is the oldest of the same build.
var specs = []spec{
	{profile: "nt-3790", row: "win2003_sp1_x64", kdbg: "Server 2003"},
	{profile: "nt-6000", row: "vista_sp0_x64", kdbg: "Vista SP0"},
	{profile: "nt-6001", row: "vista_sp1_x64", kdbg: "Vista SP1"},
	{profile: "nt-6002", row: "vista_sp2_x64", kdbg: "Vista SP1"},
	{profile: "nt-7601", row: "win7_sp1_x64", kdbg: "Windows 7"},
	{profile: "nt-7601-kva", row: "6.1.7601.24540", kdbg: "Windows 7"},
	{profile: "nt-9200", row: "win8_sp0_x64", kdbg: "Windows 8 (9200)"},
	{profile: "nt-9600", row: "6.3.9600.19913", kdbg: "Windows 8.1"},
	{profile: "nt-10240", row: "win10_x64_10240_17770", kdbg: "Windows 10 1507", image: "10.0.10240.17770"},
	{profile: "nt-14393", row: "10.0.14393.6343", kdbg: "Windows 10 1507", image: "10.0.14393.6343"},
	{profile: "nt-15063", row: "win10_x64_15063", kdbg: "Windows 10 1507", image: "10.0.15063.0"},
	{profile: "nt-16299", row: "win10_x64_16299", kdbg: "Windows 10 1507", image: "10.0.16299.15"},
	{profile: "nt-17134", row: "win10_x64_17134", kdbg: "Windows 10 1507", image: "10.0.17134.1"},
	{profile: "nt-17763", row: "10.0.17763.2803", kdbg: "Windows 10 1809", image: "10.0.17763.2803"},
	{profile: "nt-18362", row: "10.0.18362.836", kdbg: "Windows 10 1809", image: "10.0.18362.836"},
	{profile: "nt-19041", row: "10.0.19041.804", kdbg: "Windows 10 1809", image: "10.0.19041.804"},
	{profile: "nt-20348", row: "10.0.20348.1006", kdbg: "Windows 10 1809", image: "10.0.20348.1006"},
	{profile: "nt-22000", row: "10.0.22000.556", kdbg: "Windows 10 1809", image: "10.0.22000.556"},
	{profile: "nt-22621", row: "Windows 11 22H2/23H2 generation", kdbg: "Windows 10 1809", image: "10.0.22621.1", build: 22621, borrows: "10.0.22000.556"},
	{profile: "nt-26100-3a0", row: "Windows 11 24H2 / Server 2025 generation", kdbg: "newer than 22000", image: "10.0.26100.1", build: 26100, borrows: "10.0.22000.556"},
	{profile: "nt-26100-3a8", row: "Windows 11 24H2 / Server 2025 generation", kdbg: "newest seen", image: "10.0.26100.1", build: 26100, borrows: "10.0.22000.556"},

	{profile: "x86-2600", row: "xp_sp3_x86", kdbg: "Windows XP"},
	{profile: "x86-3790", row: "win2003_sp1_x86", kdbg: "Server 2003"},
	{profile: "x86-6002", row: "vista_sp2_x86", kdbg: "Vista SP1"},
	{profile: "x86-7601", row: "win7_sp1_x86", kdbg: "Windows 7"},
	{profile: "x86-9600", row: "win81_u1_x86", kdbg: "Windows 8.1"},
	{profile: "x86-15063", row: "win10_x86_15063", kdbg: "Windows 10 1507"},
	{profile: "x86-19041", row: "win10_x86_19041", kdbg: "Windows 10 1809"},
}
