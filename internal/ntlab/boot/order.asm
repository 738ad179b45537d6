; What vCPU 0 does when it finds an order in the control page, while all others
; spin: position independent, one copy for the guest. rbx is the virtual address of
; the control page. None of it comes back: what is told to QEMU stops the guest.
;
; nasm -f bin -o order.bin order.asm
;
; The layout of the control page is repeated in run.go and order.go.

%define C_ORDER         32
%define C_WRITES        48              ; virtual address of what a panic writes, 0: nothing
%define C_WENTON        96              ; counts on for as long as the guest runs after its bug check

%define W_TO            0               ; virtual address, 0: the end
%define W_FROM          8
%define W_BYTES         16
%define WRITE           24

%define ORDER_PANIC     1
%define ORDER_HANG      2
%define ORDER_SLEEP     3
%define ORDER_WRITE     4
%define ORDER_OFF       5

%define PVPANIC         0x505           ; QEMU docs/specs/pvpanic: bit 0, the guest has panicked
%define IB700_ENABLE    0x443           ; QEMU hw/watchdog/wdt_ib700.c: 15 is a time of 0 seconds
%define PM1A_CNT        0x604           ; where SeaBIOS puts it; SLP_EN is bit 13, SLP_TYP bits 10 to 12 (ACPI 4.8.3.2.1)
%define SLEEP_S3        0x2400          ; QEMU hw/acpi/core.c: type 1 is S3
%define SLEEP_S5        0x2000          ; and type 0 is off
%define IDE             0x1F0           ; the first ATA channel: data, error, count, LBA, drive, command

org 0
bits 64
order:  cld
        mov     rax, [rbx + C_ORDER]
        cmp     rax, ORDER_PANIC
        je      panic
        cmp     rax, ORDER_HANG
        je      hang
        cmp     rax, ORDER_SLEEP
        je      sleep
        cmp     rax, ORDER_WRITE
        je      write
        cmp     rax, ORDER_OFF
        je      off
spin:   pause
        jmp     spin

; As a bug check does it: what the kernel saves, then whoever registered for it.
panic:  mov     r8, [rbx + C_WRITES]
        test    r8, r8
        jz      .tell
.next:  mov     rdi, [r8 + W_TO]
        test    rdi, rdi
        jz      .tell
        mov     rsi, [r8 + W_FROM]
        mov     rcx, [r8 + W_BYTES]
        rep movsb
        add     r8, WRITE
        jmp     .next
.tell:  mov     edx, PVPANIC
        mov     al, 1
        out     dx, al
.dead:  lock inc qword [rbx + C_WENTON]
        pause
        jmp     .dead

hang:   mov     edx, IB700_ENABLE
        mov     al, 15
        out     dx, al
        jmp     spin

sleep:  mov     edx, PM1A_CNT
        mov     eax, SLEEP_S3
        out     dx, ax
        jmp     spin

off:    mov     edx, PM1A_CNT
        mov     eax, SLEEP_S5
        out     dx, ax
        jmp     spin

; WRITE SECTORS of the first sector, from the control page (ATA-4, 8.45).
write:  mov     edx, IDE + 6
        mov     al, 0xE0                ; drive 0, LBA
        out     dx, al
        mov     edx, IDE + 2
        mov     al, 1
        out     dx, al
        xor     eax, eax
        inc     edx
        out     dx, al
        inc     edx
        out     dx, al
        inc     edx
        out     dx, al
        mov     edx, IDE + 7
        mov     al, 0x30
        out     dx, al
.wait:  in      al, dx
        test    al, 8                   ; DRQ
        jz      .wait
        mov     edx, IDE
        mov     rsi, rbx
        mov     ecx, 256
        rep outsw
        jmp     spin
