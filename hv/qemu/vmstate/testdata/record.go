//go:build ignore

// Record makes the recordings in this folder anew, with two releases of QEMU:
//
//	go run record.go qtest.go QEMU-7.2 QEMU-10.0
//
// It needs binutils, and root or access to userfaultfd.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run record.go qtest.go QEMU-7.2 QEMU-10.0")
	}
	dir, err := os.MkdirTemp("", "record")
	check(err)
	defer os.RemoveAll(dir)
	bios := filepath.Join(dir, "guest.bin")
	run("as", "--64", "-o", dir+"/guest.o", "guest.S")
	run("ld", "-m", "elf_x86_64", "-Ttext=0", "-e", "0", "-o", dir+"/guest.elf", dir+"/guest.o")
	run("objcopy", "-O", "binary", "-j", ".text", dir+"/guest.elf", bios)
	plain := []string{"-m", "4M", "-smp", "2", "-bios", bios, "-cpu", "qemu64,+pdpe1gb"}
	record(dir, os.Args[1], "qemu-7.2-pc", append(plain, "-machine", "pc,accel=tcg"), false)
	record(dir, os.Args[2], "qemu-10.0-q35", append(plain, "-machine", "q35,accel=tcg"), false)
	virtio := []string{
		"-machine", "q35,accel=tcg", "-cpu", "qemu64,+pdpe1gb", "-smp", "2", "-bios", bios,
		"-m", "4M,maxmem=1G", "-object", "memory-backend-ram,id=vm0,size=64M",
		"-device", "virtio-mem-pci,addr=5,memdev=vm0,requested-size=16M,block-size=2M",
	}
	record(dir, os.Args[2], "qemu-10.0-virtio-mem", virtio, true)
}

// record starts a guest, stops it and asks QEMU for its state in every way. If
// plug is set, the guest gets a part of its virtio-mem device's memory before.
func record(dir, qemu, name string, args []string, plug bool) {
	sock := filepath.Join(dir, name+".sock")
	args = append(args, "-nodefaults", "-display", "none", "-qmp", "unix:"+sock+",server=on,wait=off")
	if plug {
		args = append(args, "-qtest", "unix:"+sock+".qtest,server=on,wait=off")
	}
	cmd := exec.Command(qemu, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	check(cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	m := dial(sock)
	m.do("qmp_capabilities", nil)
	time.Sleep(time.Second) // the guest sets its registers
	if plug {
		c, err := net.Dial("unix", sock+".qtest")
		check(err)
		plugMemory(&qtest{c, bufio.NewReader(c)})
	}
	m.do("stop", nil)

	registers := m.hmp("info registers -a")
	check(os.WriteFile(name+".registers.txt", []byte(strings.ReplaceAll(registers, "\r\n", "\n")), 0o644))
	ram := filepath.Join(dir, "ram")
	m.do("pmemsave", map[string]any{"val": 0, "size": 4 << 20, "filename": ram})
	compress(ram, name+".ram.gz")
	devices := filepath.Join(dir, "devices")
	m.do("xen-save-devices-state", map[string]any{"filename": devices, "live": false})
	compress(devices, name+".devices.gz")

	m.do("migrate-set-capabilities", map[string]any{"capabilities": []any{
		map[string]any{"capability": "background-snapshot", "state": true},
	}})
	sink := filepath.Join(dir, "stream")
	f, err := os.Create(sink)
	check(err)
	m.send("getfd", map[string]any{"fdname": "sink"}, syscall.UnixRights(int(f.Fd())))
	check(f.Close())
	m.do("migrate", map[string]any{"uri": "fd:sink"})
	for {
		var st struct{ Status string }
		check(json.Unmarshal(m.do("query-migrate", nil), &st))
		if st.Status == "completed" {
			break
		}
		if st.Status == "failed" {
			log.Fatal("snapshot failed")
		}
		time.Sleep(20 * time.Millisecond)
	}
	compress(sink, name+".stream.gz")
	m.do("quit", nil)
}

type monitor struct {
	c   *net.UnixConn
	dec *json.Decoder
}

func dial(sock string) *monitor {
	for range 500 {
		if c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sock, Net: "unix"}); err == nil {
			return &monitor{c, json.NewDecoder(c)}
		}
		time.Sleep(20 * time.Millisecond)
	}
	log.Fatal("no monitor at ", sock)
	return nil
}

func (m *monitor) do(command string, args any) json.RawMessage { return m.send(command, args, nil) }

func (m *monitor) hmp(line string) string {
	var s string
	check(json.Unmarshal(m.do("human-monitor-command", map[string]any{"command-line": line}), &s))
	return s
}

func (m *monitor) send(command string, args any, oob []byte) json.RawMessage {
	req := map[string]any{"execute": command}
	if args != nil {
		req["arguments"] = args
	}
	b, err := json.Marshal(req)
	check(err)
	_, _, err = m.c.WriteMsgUnix(b, oob, nil)
	check(err)
	for {
		var r struct{ Return, Error json.RawMessage }
		check(m.dec.Decode(&r))
		if r.Error != nil {
			log.Fatalf("%s: %s", command, r.Error)
		}
		if r.Return != nil {
			return r.Return
		}
	}
}

func compress(from, to string) {
	b, err := os.ReadFile(from)
	check(err)
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	check(err)
	_, err = io.Copy(z, bytes.NewReader(b))
	check(err)
	check(z.Close())
	check(os.WriteFile(to, out.Bytes(), 0o644))
	fmt.Println(to, len(b), "->", out.Len())
}

func run(name string, args ...string) {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	check(cmd.Run())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
