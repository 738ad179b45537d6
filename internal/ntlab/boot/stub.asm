; The part of the boot code that runs at physical addresses: from the PVH
; entry (32-bit protected mode, paging off: Xen docs/misc/pvh) to the image's
; own page tables, on every processor. It is position independent: rbp holds
; the physical address that the blob was loaded to, which the first
; instruction sets and the builder patches in.
;
; nasm -f bin -o stub.bin stub.asm
;
; The layout of the header and of a processor's record is repeated in stub.go.

%define TRAMPOLINE      0x8000          ; page that application processors start in
%define LAPIC           0xFEE00000
%define COM1            0x3F8

%define FW_CFG          0x510           ; selector; data; from +4 the address of a DMA request
%define FW_CFG_DMA      0x514
%define FW_CFG_FILE_DIR 0x19
%define FW_CFG_SELECT_WRITE 0x18

%define RECORD          1024            ; size of a processor's record; its end is the stack
%define T_NEXT          0               ; a page of a table: physical address of the next, 0: none
%define T_COUNT         8               ; entries in this one
%define T_FIRST         32              ; they follow, of 32 bytes each

%define R_FXSAVE        0               ; 512 bytes
%define R_CR0           512
%define R_CR3           520
%define R_CR4           528
%define R_EFER          536
%define R_GSBASE        544
%define R_KGSBASE       552
%define R_FSBASE        560
%define R_LSTAR         568
%define R_RIP           576
%define R_RSP           584
%define R_RFLAGS        592
%define R_BLOCK         600             ; virtual address of the run block, for rdi
%define R_GDTR          608             ; 10 bytes
%define R_IDTR          624             ; 10 bytes
%define R_CS            640             ; selectors, 2 bytes each
%define R_SS            642
%define R_DS            644
%define R_ES            646
%define R_FS            648
%define R_GS            650
%define R_TR            652
%define R_GPR           656             ; rbx rbp rsi r8 r9 r10 r11 r12 r13 r14 r15 rcx rdx
%define R_PERIOD        760             ; of the timer tick in ns, 32 bits, 0: none
%define R_DR            768             ; DR0 to DR3, which stay disabled

org 0
bits 32
entry:
        mov     ebp, 0                  ; patched: where the blob is
        jmp     start

        align   16, db 0
; Filled in by the builder.
p_tables:       dq 0                    ; page tables: memory at its own address, and the image's upper half
p_records:      dq 0                    ; physical address of the processors' records
p_copies:       dq 0                    ; first page of a table of {destination, pages, source, 0}, 0: none
p_fills:        dq 0                    ; first page of a table of {destination, pages, kind, seed}
p_waits:        dq 0                    ; first page of a table of {address of a qword, 0, 0, 0}
p_ncpu:         dd 0
p_cr4:          dd 0                    ; what page tables need of CR4, which can't be turned on later
; FWCfgVMCoreInfo (QEMU docs/specs/vmcoreinfo.rst): host and guest format, size and
; physical address of the note, 0: none. Filled in by the builder.
vmcoreinfo:     dw 0, 1
                dd 0
                dq 0
; Words that the processors share.
count:          dd 0                    ; application processors that have arrived
go:             dd 0

gdtr:           dw gdt_end - gdt - 1
                dd 0
                align   8, db 0
gdt:            dq 0
                dq 0x00AF9B000000FFFF   ; 0x08 64-bit code
                dq 0x00CF93000000FFFF   ; 0x10 data
                dq 0x00CF9B000000FFFF   ; 0x18 32-bit code
gdt_end:
far_bsp:        dd 0
                dw 0x08
far_ap:         dd 0
                dw 0x08

start:
        cli
        cld
        lea     eax, [ebp + gdt]
        mov     [ebp + gdtr + 2], eax
        mov     [ebp + t_gdtr + 2], eax
        mov     [ebp + t_base + 2], ebp
        lea     eax, [ebp + ap32]
        mov     [ebp + t_far + 2], eax
        lea     eax, [ebp + bsp64]
        mov     [ebp + far_bsp], eax
        lea     eax, [ebp + ap64]
        mov     [ebp + far_ap], eax
        lgdt    [ebp + gdtr]
        lea     esi, [ebp + far_bsp]
        jmp     long_mode

ap32:
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        lea     esi, [ebp + far_ap]
long_mode:
        mov     eax, cr4
        or      eax, [ebp + p_cr4]
        mov     cr4, eax
        mov     eax, [ebp + p_tables]
        mov     cr3, eax
        mov     ecx, 0xC0000080
        rdmsr
        or      eax, 0x901              ; SCE, LME, NXE
        wrmsr
        mov     eax, cr0
        and     eax, 0x9FFFFFF3         ; caches on, no FPU emulation
        or      eax, 0x80010023         ; PG, WP, NE, MP, PE
        mov     cr0, eax
        jmp     far [esi]

; Application processors begin here in real mode, with cs:ip at TRAMPOLINE.
bits 16
trampoline:
        cli
        mov     ax, cs
        mov     ds, ax
t_base: mov     ebp, 0                  ; patched by start
        o32 lgdt [t_gdtr - trampoline]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
t_far:  jmp     dword 0x18:0            ; patched by start
t_gdtr: dw      gdt_end - gdt - 1
        dd      0
trampoline_end:

bits 64
bsp64:
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     ebp, ebp                ; the upper half is undefined after the switch
        mov     r14, [rbp + p_records]  ; the boot processor's APIC id is 0
        lea     rsp, [r14 + RECORD]
        call    fill
        call    start_others
        call    copy
        call    publish
        mov     dword [rbp + go], 1
        call    await
        jmp     enter

ap64:
        mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     ebp, ebp
        mov     eax, 1
        cpuid
        shr     ebx, 24                 ; local APIC id
        cmp     ebx, [rbp + p_ncpu]
        jae     halt
        imul    r14, rbx, RECORD
        add     r14, [rbp + p_records]
        lea     rsp, [r14 + RECORD]
        lock inc dword [rbp + count]
.wait:  pause
        cmp     dword [rbp + go], 0
        je      .wait

; Load the state of the processor whose record is at r14, and leave. The
; page tables here map the image's kernel half, so the image's descriptor
; tables and the code that is left to are there already; that code loads CR3.
enter:
        mov     rax, [r14 + R_CR4]
        mov     cr4, rax
        mov     rax, [r14 + R_CR0]
        mov     cr0, rax
        mov     ecx, 0xC0000080
        mov     rax, [r14 + R_EFER]
        call    set_msr
        lgdt    [r14 + R_GDTR]
        lidt    [r14 + R_IDTR]
        mov     ss, [r14 + R_SS]
        mov     ds, [r14 + R_DS]
        mov     es, [r14 + R_ES]
        mov     fs, [r14 + R_FS]
        mov     gs, [r14 + R_GS]
        movzx   eax, word [r14 + R_CS]
        push    rax
        lea     rax, [rel .there]
        push    rax
        o64 retf
.there: xor     eax, eax
        lldt    ax
        ltr     [r14 + R_TR]
        mov     ecx, 0xC0000100         ; FS.base
        mov     rax, [r14 + R_FSBASE]
        call    set_msr
        mov     ecx, 0xC0000101         ; GS.base
        mov     rax, [r14 + R_GSBASE]
        call    set_msr
        mov     ecx, 0xC0000102         ; KernelGSbase
        mov     rax, [r14 + R_KGSBASE]
        call    set_msr
        mov     ecx, 0xC0000081         ; STAR: user 0x23, kernel 0x10
        mov     rax, 0x0023001000000000
        call    set_msr
        mov     ecx, 0xC0000082         ; LSTAR
        mov     rax, [r14 + R_LSTAR]
        call    set_msr
        fxrstor [r14 + R_FXSAVE]
        mov     rax, [r14 + R_DR]
        mov     dr0, rax
        mov     rax, [r14 + R_DR + 8]
        mov     dr1, rax
        mov     rax, [r14 + R_DR + 16]
        mov     dr2, rax
        mov     rax, [r14 + R_DR + 24]
        mov     dr3, rax
        mov     eax, [r14 + R_PERIOD]
        test    eax, eax
        jz      .leave
        mov     edx, LAPIC
        mov     dword [rdx + 0xF0], 0x1FF
        mov     dword [rdx + 0x3E0], 0xB        ; divide by 1
        mov     dword [rdx + 0x320], 0x20400    ; timer: periodic, delivered as an NMI, which needs no EOI
        mov     [rdx + 0x380], eax
.leave: movzx   eax, word [r14 + R_SS]
        push    rax
        push    qword [r14 + R_RSP]
        push    qword [r14 + R_RFLAGS]
        movzx   eax, word [r14 + R_CS]
        push    rax
        push    qword [r14 + R_RIP]
        mov     rax, [r14 + R_CR3]
        mov     rdi, [r14 + R_BLOCK]
        mov     rbx, [r14 + R_GPR]
        mov     rbp, [r14 + R_GPR + 8]
        mov     rsi, [r14 + R_GPR + 16]
        mov     r8, [r14 + R_GPR + 24]
        mov     r9, [r14 + R_GPR + 32]
        mov     r10, [r14 + R_GPR + 40]
        mov     r11, [r14 + R_GPR + 48]
        mov     r12, [r14 + R_GPR + 56]
        mov     r13, [r14 + R_GPR + 64]
        mov     r15, [r14 + R_GPR + 80]
        mov     rcx, [r14 + R_GPR + 88]
        mov     rdx, [r14 + R_GPR + 96]
        mov     r14, [r14 + R_GPR + 72]
        iretq

; set_msr writes rax to the MSR in ecx. Changes rdx.
set_msr:
        mov     rdx, rax
        shr     rdx, 32
        wrmsr
        ret

halt:   cli
        hlt
        jmp     halt

; wait10ms waits for ten million cycles of the APIC timer, whose clock is
; 1 GHz in QEMU and in KVM. Changes rdx.
wait10ms:
        mov     edx, LAPIC
        mov     dword [rdx + 0x3E0], 0xB
        mov     dword [rdx + 0x320], 0x10000    ; masked, one shot
        mov     dword [rdx + 0x380], 10000000
.more:  pause
        cmp     dword [rdx + 0x390], 0
        jne     .more
        ret

; start_others wakes the application processors (INIT, then SIPI until all
; have come: Intel SDM volume 3, 8.4.4).
start_others:
        lea     rsi, [rbp + trampoline]
        mov     edi, TRAMPOLINE
        mov     ecx, trampoline_end - trampoline
        rep movsb
        mov     ecx, [rbp + p_ncpu]
        dec     ecx
        jz      .done
        mov     ebx, LAPIC
        mov     dword [rbx + 0xF0], 0x1FF
        mov     dword [rbx + 0x300], 0xC4500    ; INIT to all but self
        call    wait10ms
        mov     esi, 6000               ; a minute, for hosts with too much to do
.sipi:  mov     dword [rbx + 0x300], 0xC4600 + (TRAMPOLINE >> 12)
        call    wait10ms
        cmp     [rbp + count], ecx
        jae     .done
        dec     esi
        jnz     .sipi
        lea     rsi, [rel .lost]
        mov     ecx, .lost_end - .lost
        mov     edx, COM1
        rep outsb
        jmp     halt
.done:  ret
.lost:  db      "SNAP-LAB: processors did not start", 10
.lost_end:

; copy brings the pages that the firmware would have overwritten to where
; they belong.
copy:
        mov     r8, [rbp + p_copies]
.table: test    r8, r8
        jz      .done
        lea     rbx, [r8 + T_FIRST]
        mov     rdx, [r8 + T_COUNT]
.next:  test    rdx, rdx
        jz      .end
        mov     rdi, [rbx]
        mov     rcx, [rbx + 8]
        mov     rsi, [rbx + 16]
        shl     rcx, 9
        rep movsq
        add     rbx, 32
        dec     rdx
        jmp     .next
.end:   mov     r8, [r8 + T_NEXT]
        jmp     .table
.done:  ret

; publish tells QEMU's vmcoreinfo device where the note is: a DMA write of all of
; fw_cfg's file for it (QEMU docs/specs/fw_cfg.rst). Numbers there are big-endian.
publish:
        cmp     qword [rbp + vmcoreinfo + 8], 0
        je      .done
        mov     edx, FW_CFG
        mov     eax, FW_CFG_FILE_DIR
        out     dx, ax
        inc     edx                     ; the data port
        lea     rdi, [rbp + entry_of]
        mov     ecx, 4
        rep insb
        mov     r9d, [rbp + entry_of]
        bswap   r9d                     ; files
.next:  test    r9d, r9d
        jz      .lost
        lea     rdi, [rbp + entry_of]
        mov     ecx, 64
        rep insb
        lea     rsi, [rbp + file_name]
        lea     rdi, [rbp + entry_of + 8]
        mov     ecx, file_name_end - file_name
        repe cmpsb
        je      .found
        dec     r9d
        jmp     .next
.found: movzx   eax, word [rbp + entry_of + 4]
        xchg    al, ah
        shl     eax, 16
        or      eax, FW_CFG_SELECT_WRITE
        bswap   eax
        mov     [rbp + entry_of], eax
        mov     dword [rbp + entry_of + 4], 16 << 24
        lea     rax, [rbp + vmcoreinfo]
        bswap   rax
        mov     [rbp + entry_of + 8], rax
        lea     rax, [rbp + entry_of]
        bswap   rax
        mov     edx, FW_CFG_DMA
        out     dx, eax                 ; the upper half
        shr     rax, 32
        add     edx, 4
        out     dx, eax                 ; which starts it
.wait:  pause
        mov     eax, [rbp + entry_of]
        test    eax, 1 << 24            ; the error bit, big-endian
        jnz     .lost
        test    eax, eax
        jnz     .wait
.done:  ret
.lost:  lea     rsi, [rel .text]
        mov     ecx, .text_end - .text
        mov     edx, COM1
        rep outsb
        jmp     halt
.text:  db      "SNAP-LAB: no vmcoreinfo device takes the note", 10
.text_end:

; await waits until every qword of its table is set: other processors' proof
; that they have arrived where they can't tell run.asm.
await:
        mov     r8, [rbp + p_waits]
.table: test    r8, r8
        jz      .done
        lea     rbx, [r8 + T_FIRST]
        mov     rdx, [r8 + T_COUNT]
.next:  test    rdx, rdx
        jz      .end
        mov     rsi, [rbx]
.wait:  pause
        cmp     qword [rsi], 0
        je      .wait
        add     rbx, 32
        dec     rdx
        jmp     .next
.end:   mov     r8, [r8 + T_NEXT]
        jmp     .table
.done:  ret

; fill writes the pages of the fill table. Kinds: 0 zero, 1 text, 2
; structures, 3 random. Every page starts a generator (xorshift64) of its own
; at seed ^ (page number * odd constant), which FillPage repeats.
fill:
        mov     r8, [rbp + p_fills]
.table: test    r8, r8
        jz      .done
        lea     rbx, [r8 + T_FIRST]
        mov     r13, [r8 + T_COUNT]
.next:  test    r13, r13
        jz      .end
        mov     rdi, [rbx]
        mov     r12, [rbx + 8]
.page:  test    r12, r12
        jz      .run
        mov     rax, rdi
        shr     rax, 12
        mov     rdx, 0x9E3779B97F4A7C15
        imul    rax, rdx
        xor     rax, [rbx + 24]
        jnz     .seeded
        mov     rax, rdx
.seeded:
        mov     ecx, 512
        mov     rdx, [rbx + 16]
        cmp     rdx, 1
        je      .text
        cmp     rdx, 2
        je      .structures
        cmp     rdx, 3
        je      .random
        xor     eax, eax
        rep stosq
        jmp     .filled

%macro  STEP 0
        mov     rdx, rax
        shl     rdx, 13
        xor     rax, rdx
        mov     rdx, rax
        shr     rdx, 7
        xor     rax, rdx
        mov     rdx, rax
        shl     rdx, 17
        xor     rax, rdx
%endmacro

.random:
        STEP
        stosq
        dec     ecx
        jnz     .random
        jmp     .filled

.text:  lea     rsi, [rbp + words]
.word:  STEP
        mov     rdx, rax
        shr     rdx, 32
        and     edx, 63
        mov     rdx, [rsi + rdx * 8]
        mov     [rdi], rdx
        add     rdi, 8
        dec     ecx
        jnz     .word
        jmp     .filled

.structures:
        mov     ecx, 64                 ; records of 64 bytes: two kernel pointers, a count, zeros
.record:
        STEP
        mov     rsi, 0xFFFFA00000000000
        mov     rdx, rax
        and     edx, 0x0FFFFFF0
        or      rdx, rsi
        mov     [rdi], rdx
        mov     rdx, rax
        shr     rdx, 32
        and     edx, 0x0FFFFFF0
        or      rdx, rsi
        mov     [rdi + 8], rdx
        movzx   edx, al
        mov     [rdi + 16], rdx
        xor     edx, edx
        mov     [rdi + 24], rdx
        mov     [rdi + 32], rdx
        mov     [rdi + 40], rdx
        mov     [rdi + 48], rdx
        mov     [rdi + 56], rdx
        add     rdi, 64
        dec     ecx
        jnz     .record

.filled:
        dec     r12
        jmp     .page
.run:   add     rbx, 32
        dec     r13
        jmp     .next
.end:   mov     r8, [r8 + T_NEXT]
        jmp     .table
.done:  ret

file_name:
        db      "etc/vmcoreinfo", 0
file_name_end:
        align   8, db 0
entry_of:                               ; a file of fw_cfg's directory, then the DMA request
        times   64 db 0
; 64 words of 8 bytes, for text.
words:  incbin  "words.txt", 0, 512
