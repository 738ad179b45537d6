//go:build ignore

package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"strings"
)

// qtest drives devices from outside of the guest, over QEMU's protocol for its
// own tests (QEMU: docs/devel/testing/qtest.rst).
type qtest struct {
	c net.Conn
	r *bufio.Reader
}

func (q *qtest) do(format string, args ...any) uint64 {
	line := fmt.Sprintf(format, args...)
	_, err := fmt.Fprintln(q.c, line)
	check(err)
	for {
		answer, err := q.r.ReadString('\n')
		check(err)
		if strings.HasPrefix(answer, "IRQ") {
			continue
		}
		var v uint64
		if answer != "OK\n" {
			if _, err := fmt.Sscanf(answer, "OK 0x%x", &v); err != nil {
				log.Fatalf("%s: %s", line, answer)
			}
		}
		return v
	}
}

const (
	virtioBAR   = 0xe0000000
	virtioSlot  = 0x80000000 | 5<<11 // device 5 on bus 0
	queueAt     = 0x20000            // descriptors, 0x1000 further what is available, then what is used
	requestAt   = 0x30000
	blockSize   = 2 << 20
	commandBits = 0x6 // memory, bus master
)

// plugMemory is a driver of virtio-mem (VIRTIO 1.2, 4.1.4 and 5.15), just large
// enough to ask for memory: blocks 0, 1 and 3. It writes a page in each of the
// last two.
func plugMemory(q *qtest) {
	config := func(reg, v uint32) {
		q.do("outl 0xcf8 %#x", virtioSlot|reg)
		q.do("outl 0xcfc %#x", v)
	}
	config(0x20, virtioBAR) // BAR 4, where QEMU has all of virtio's registers
	config(0x24, 0)
	config(0x04, commandBits)
	q.do("writeb %#x 0", virtioBAR+0x14)
	q.do("writeb %#x 3", virtioBAR+0x14) // acknowledge, driver
	q.do("writel %#x 0", virtioBAR+0)
	offered := q.do("readl %#x", virtioBAR+4)
	q.do("writel %#x 0", virtioBAR+8)
	q.do("writel %#x %#x", virtioBAR+0xc, offered&2) // unplugged memory is inaccessible
	q.do("writel %#x 1", virtioBAR+8)
	q.do("writel %#x 1", virtioBAR+0xc) // version 1
	q.do("writeb %#x 11", virtioBAR+0x14)
	q.do("writew %#x 0", virtioBAR+0x16)
	q.do("writeq %#x %#x", virtioBAR+0x20, queueAt)
	q.do("writeq %#x %#x", virtioBAR+0x28, queueAt+0x1000)
	q.do("writeq %#x %#x", virtioBAR+0x30, queueAt+0x2000)
	q.do("writew %#x 1", virtioBAR+0x1c)
	q.do("writeb %#x 15", virtioBAR+0x14)

	memory := q.do("readq %#x", virtioBAR+0x2010)
	request(q, 0, memory, 2)
	request(q, 1, memory+3*blockSize, 1)
	q.do("writeq %#x 0x1122334455667788", memory+blockSize+0x5000)
	q.do("writeq %#x 0x99aabbccddeeff00", memory+3*blockSize+0x1ff000)
	if got := q.do("readq %#x", virtioBAR+0x2028); got != 3*blockSize {
		log.Fatalf("%d bytes are plugged", got)
	}
}

// request is the nth one, to plug blocks at a guest-physical address.
func request(q *qtest, n int, addr uint64, blocks int) {
	at := requestAt + n*0x100
	q.do("writeq %#x 0", at) // type 0: plug
	q.do("writeq %#x %#x", at+8, addr)
	q.do("writeq %#x %#x", at+16, blocks)
	q.do("writeq %#x 0xffff", at+0x80)
	desc := func(i, addr, size, flags int) {
		q.do("writeq %#x %#x", queueAt+16*i, addr)
		q.do("writel %#x %d", queueAt+16*i+8, size)
		q.do("writew %#x %d", queueAt+16*i+12, flags)
		q.do("writew %#x %d", queueAt+16*i+14, i+1)
	}
	desc(2*n, at, 24, 1)        // another follows
	desc(2*n+1, at+0x80, 10, 2) // for the device to write
	q.do("writew %#x %d", queueAt+0x1000+4+2*n, 2*n)
	q.do("writew %#x %d", queueAt+0x1000+2, n+1)
	q.do("writew %#x 0", virtioBAR+0x3000)
	for q.do("readw %#x", queueAt+0x2000+2) != uint64(n+1) {
	}
	if got := q.do("readw %#x", at+0x80); got != 0 {
		log.Fatalf("request %d: answer %d", n, got)
	}
}
