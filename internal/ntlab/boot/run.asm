; What a processor runs in the kernel image's text, once it is in the guest:
; position independent, one copy per processor. rdi is the virtual address of
; the processor's run block, rax the image's CR3 for it.
;
; nasm -f bin -o run.bin run.asm
;
; The layout of the run block and of the control page is repeated in run.go.

%define COM1            0x3F8
%define NUMBER          24              ; of the number in a page of a chain

%define B_CONTROL       0               ; virtual address of the control page
%define B_CPU           8
%define B_MODE          16
%define B_TABLE         24              ; virtual address of the chain's page addresses
%define B_LENGTH        32
%define B_NUMBER        40              ; the last number that all pages have
%define B_HEARTBEAT     48
%define B_KUSER         56              ; virtual address of KUSER_SHARED_DATA, 0: another processor keeps time
%define B_TIME          64              ; InterruptTime
%define B_DELTA         72              ; SystemTime - InterruptTime
%define B_STEP          80              ; 100 ns units per round
%define B_SINCE         88              ; 100 ns units since the last tick
%define B_ADVERT        96              ; virtual address of the advertised table to change, 0: none
%define B_ENTRIES       104             ; of an even generation
%define B_APAGES        112             ; virtual address of the pages that its entries ask for
%define B_GENERATION    120
%define B_LINGER        128             ; pauses after each entry

%define MODE_PACED      0               ; a round per timer tick
%define MODE_BUSY       1               ; round after round
%define MODE_IDLE       2               ; none

%define C_STARTED       8
%define C_CPUS          16
%define C_READY         24
%define C_ORDER         32              ; what to do instead, 0: nothing
%define C_ORDERS        40              ; virtual address of order.asm

; The table of guest/driver/README.md, and KBUGCHECK_REMOVE_PAGES (WDK wdm.h).
%define A_SEQUENCE      0x10
%define A_COUNT         0x14
%define A_ENTRIES       0x20
%define E_CONTEXT       0x00
%define E_FLAGS         0x08            ; and BugCheckCode behind it
%define E_ADDRESS       0x10
%define E_COUNT         0x18
%define ENTRY           0x20
%define VIRTUAL         1

; KUSER_SHARED_DATA (WDK ntddk.h) and the length of a tick in 100 ns units.
%define K_INTERRUPT     0x08
%define K_SYSTEM        0x14
%define K_TICKCOUNT     0x320
%define TICK            156250

org 0
bits 64
run:    jmp     short begin
        align   8, db 0x90
nmi:    iretq                           ; the timer tick: its only job is to end hlt
        align   8, db 0x90

begin:  mov     cr3, rax
        mov     rbx, [rdi + B_CONTROL]
        lock inc qword [rbx + C_STARTED]
        cmp     qword [rdi + B_CPU], 0
        jne     started
.wait:  pause
        mov     rax, [rbx + C_STARTED]
        cmp     rax, [rbx + C_CPUS]
        jne     .wait
        lea     rsi, [rel message]
        mov     ecx, message_end - message
        mov     edx, COM1
.put:   lodsb
        out     dx, al
        dec     ecx
        jnz     .put
        mov     qword [rbx + C_READY], 1
started:
        mov     r12, [rdi + B_MODE]
round:  inc     qword [rdi + B_HEARTBEAT]
        mov     rbx, [rdi + B_CONTROL]
        cmp     qword [rbx + C_ORDER], 0
        jne     ordered
        cmp     r12, MODE_IDLE
        je      idle

        mov     r8, [rdi + B_KUSER]
        test    r8, r8
        jz      chain
        ; Writers set High2Time first and High1Time last; readers take both
        ; and the low part between them, and try again if they differ.
        mov     rax, [rdi + B_TIME]
        add     rax, [rdi + B_STEP]
        mov     [rdi + B_TIME], rax
        mov     rdx, rax
        shr     rdx, 32
        mov     [r8 + K_INTERRUPT + 8], edx
        mov     [r8 + K_INTERRUPT], rax
        add     rax, [rdi + B_DELTA]
        mov     rdx, rax
        shr     rdx, 32
        mov     [r8 + K_SYSTEM + 8], edx
        mov     [r8 + K_SYSTEM], rax
        mov     rax, [rdi + B_SINCE]
        add     rax, [rdi + B_STEP]
        cmp     rax, TICK
        jb      .same
        sub     rax, TICK
        mov     rcx, [r8 + K_TICKCOUNT]
        inc     rcx
        mov     rdx, rcx
        shr     rdx, 32
        mov     [r8 + K_TICKCOUNT + 8], edx
        mov     [r8 + K_TICKCOUNT], rcx
.same:  mov     [rdi + B_SINCE], rax

chain:  mov     rax, [rdi + B_NUMBER]
        inc     rax
        mov     rsi, [rdi + B_TABLE]
        mov     ecx, [rdi + B_LENGTH]
.page:  mov     rdx, [rsi]
        mov     [rdx + NUMBER], rax
        add     rsi, 8
        dec     ecx
        jnz     .page
        mov     [rdi + B_NUMBER], rax

        mov     r8, [rdi + B_ADVERT]
        test    r8, r8
        jz      pace
        ; The next generation of entries for the table. Odd ones have half of
        ; the entries, which ask for other pages.
        mov     rax, [rdi + B_GENERATION]
        inc     rax
        mov     [rdi + B_GENERATION], rax
        mov     ecx, [rdi + B_ENTRIES]
        mov     rdx, [rdi + B_APAGES]
        test    al, 1
        jz      .even
        mov     r9, rcx
        shl     r9, 12
        add     rdx, r9
        shr     ecx, 1
.even:  mov     r10d, ecx
        inc     dword [r8 + A_SEQUENCE]
        mfence
        lea     r9, [r8 + A_ENTRIES]
.entry: mov     [r9 + E_CONTEXT], rax
        mov     qword [r9 + E_FLAGS], VIRTUAL
        mov     [r9 + E_ADDRESS], rdx
        mov     qword [r9 + E_COUNT], 1
        mov     r11, [rdi + B_LINGER]
.linger:
        pause
        dec     r11
        jnz     .linger
        add     r9, ENTRY
        add     rdx, 4096
        dec     ecx
        jnz     .entry
        mov     [r8 + A_COUNT], r10d
        mfence
        inc     dword [r8 + A_SEQUENCE]

pace:   cmp     r12, MODE_BUSY
        je      .busy
        hlt
        jmp     round
.busy:  pause
        jmp     round

idle:   hlt
        jmp     idle

ordered:
        cmp     qword [rdi + B_CPU], 0
        jne     .frozen
        jmp     [rbx + C_ORDERS]
.frozen:
        pause
        jmp     .frozen

message:
        db      "SNAP-LAB READY", 10
message_end:
        align   16, db 0x90
