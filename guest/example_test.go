package guest_test

import (
	"context"
	"fmt"

	"snap/guest"
	"snap/internal/ntlab"
)

// A synthetic guest stands for the memory, RAM map and registers that a
// hypervisor gives.
func ExampleDiscover() {
	ctx := context.Background()
	vm, err := ntlab.Build(ntlab.Config{Seed: 1, Memory: 256 << 20, CPUs: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	sys, err := guest.Discover(ctx, vm, vm.RAM(), vm.Registers())
	if err != nil {
		fmt.Println(err) // says what was tried
		return
	}
	fmt.Printf("%s, %s, %d processors\n", sys.Name(), sys.Arch, sys.NumberProcessors.Value)
	fmt.Printf("found by %s\n", sys.Attempts[len(sys.Attempts)-1].Finder)
	fmt.Printf("page tables from %s, processors from %s\n", sys.DirectoryTableBase.From, sys.NumberProcessors.From)

	processes, err := sys.Processes(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("the first process is %s with ID %d\n", processes[0].Name, processes[0].PID)
	// Output:
	// Windows 10.0.19045, amd64, 2 processors
	// found by processor registers
	// page tables from PsInitialSystemProcess, processors from KDBG KiProcessorBlock
	// the first process is System with ID 4
}
