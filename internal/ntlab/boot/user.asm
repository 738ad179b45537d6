; What a processor in user mode runs: position independent.
;
; nasm -f bin -o user.bin user.asm
;
; The first 16 bytes are the bridge, in the kernel: rax is the process's CR3,
; rcx and r11 what SYSRET takes RIP and RFLAGS from. The rest is the loop, in
; the process; rdi points at the processor's counter.

org 0
bits 64
bridge: mov     cr3, rax
        o64 sysret
        align   16, db 0xCC
again:   inc     qword [rdi]
        pause
        jmp     again
        align   16, db 0xCC
