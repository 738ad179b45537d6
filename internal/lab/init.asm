; The init of the lab's Linux guest, as an ELF file: says on the console that
; it is up, and sleeps.
;
; nasm -f bin -o init.bin init.asm

bits 64
org 0x400000
header: db      0x7F, "ELF", 2, 1, 1, 0
        dq      0
        dw      2, 62                   ; ET_EXEC, EM_X86_64
        dd      1
        dq      start
        dq      program - header
        dq      0
        dd      0
        dw      64, 56, 1, 64, 0, 0
program:
        dd      1, 5                    ; PT_LOAD, readable and executable
        dq      0, header, header, end - header, end - header, 0x1000

start:  mov     eax, 1                  ; write(1, message, length)
        mov     edi, 1
        lea     rsi, [rel message]
        mov     edx, end - message
        syscall
.sleep: mov     eax, 34                 ; pause()
        syscall
        jmp     .sleep
message:
        db      "SNAP-LAB READY", 10
end:
