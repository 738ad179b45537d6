# The guest of the recordings: a BIOS of 64 KiB that brings two processors into
# 64-bit mode, gives every register that a dump knows a value of its own, lays an
# FXSAVE image of each processor into RAM and then counts in memory.
# Processor 0 stays in the kernel, processor 1 goes to ring 3 after swapgs.
#
#   0x1000 PML4, 0x2000 PDPT (1 GiB pages)
#   0x5000 + 0x200*cpu  FXSAVE image
#   0x6000 + 0x100*cpu  counter
#   0x7000 + 0x400*cpu  top of the stack
#   0x9000  IDT (empty)
        .set BASE, 0xf0000

        .code16
        .section .text
        .globl ap
ap:     cli                             # SIPI vector 0xf0
start:
        xorw %ax, %ax
        movw %ax, %ds
        movl $0x2007, 0x1000            # PML4[0], user
        movl $0x00000087, 0x2000        # PDPT[0..3]: 1 GiB pages, user
        movl $0x40000087, 0x2008
        movl $0x80000087, 0x2010
        movl $0xc0000087, 0x2018
        lgdtl %cs:(gdtr - ap)
        movl $0x620, %eax               # PAE, OSFXSR, OSXMMEXCPT
        movl %eax, %cr4
        movl $0x1000, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx          # EFER: SCE, LME, NXE
        movl $0x901, %eax
        xorl %edx, %edx
        wrmsr
        movl $0x80010033, %eax          # PG, WP, NE, ET, MP, PE
        movl %eax, %cr0
        ljmpl $0x08, $(BASE + long - ap)

        .code64
long:
        movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $0x18, %eax
        movl %eax, %fs
        movl $0x18, %eax
        movl %eax, %gs
        movl $1, %eax
        cpuid
        shrl $24, %ebx
        movl %ebx, %ebp                 # APIC id
        movl %ebp, %esp
        shll $10, %esp
        addl $0x7400, %esp
        lidt BASE + idtr - ap
        movl $0x28, %eax
        lldt %ax
        movl %ebp, %eax
        shll $4, %eax
        addl $0x38, %eax
        ltr %ax

        movl %ebp, %edi                 # values differ by processor in bits 24-31
        shll $24, %edi
        .macro msr nr, hi, lo
        movl $\nr, %ecx
        movl $\hi, %edx
        movl $\lo, %eax
        orl %edi, %eax
        wrmsr
        .endm
        msr 0xc0000100, 0x00007ff1, 0x00112000  # FS base
        msr 0xc0000101, 0xfffff801, 0x00223000  # GS base
        msr 0xc0000102, 0x00000042, 0x00334000  # KERNEL_GS_BASE
        msr 0xc0000081, 0x00230010, 0x00000000  # STAR
        msr 0xc0000082, 0xfffff802, 0x00445680  # LSTAR
        msr 0xc0000083, 0xfffff803, 0x00556780  # CSTAR
        movabsq $0xfffff80411111110, %rax
        addq %rdi, %rax
        movq %rax, %dr0
        movabsq $0xfffff80522222220, %rax
        addq %rdi, %rax
        movq %rax, %dr1
        movabsq $0xfffff80633333330, %rax
        addq %rdi, %rax
        movq %rax, %dr2
        movabsq $0xfffff80744444440, %rax
        addq %rdi, %rax
        movq %rax, %dr3
        movl $0x10400, %eax             # no breakpoint is enabled
        movq %rax, %dr7
        movabsq $0x0000123455667788, %rax
        addq %rdi, %rax
        movq %rax, %cr2

        fninit
        fldcw BASE + control - ap
        fldpi
        fldl2e
        fld1
        testl %ebp, %ebp
        jz 1f
        fldln2
        fldlg2
1:      ldmxcsr BASE + mxcsr - ap
        .macro xmm nr
        movabsq $(0x0101010101010101 * \nr + 0xa0), %rax
        addq %rdi, %rax
        movq %rax, %xmm\nr
        movabsq $(0x0123456789abcd00 + \nr), %rax
        addq %rdi, %rax
        movq %rax, %xmm15
        punpcklqdq %xmm15, %xmm\nr
        .endm
        xmm 0
        xmm 1
        xmm 2
        xmm 3
        xmm 4
        xmm 5
        xmm 6
        xmm 7
        xmm 8
        xmm 9
        xmm 10
        xmm 11
        xmm 12
        xmm 13
        xmm 14
        movl %ebp, %eax
        shll $9, %eax
        fxsave64 0x5000(%rax)

        testl %ebp, %ebp
        jnz user
        movl $0xfee00300, %ebx
        movl $0x000c4500, (%rbx)        # INIT to all others
        movl $100000, %ecx
2:      loop 2b
        movl $0x000c46f0, (%rbx)        # SIPI
        jmp values

user:   movl $0xfee00300, %ebx
        swapgs
        pushq $0x23                     # SS
        leaq -8(%rsp), %rax
        pushq %rax
        pushq $0x202                    # RFLAGS: IF, no interrupt source is enabled
        pushq $0x5b                     # CS
        leaq values(%rip), %rax
        pushq %rax
        iretq

values: movl %ebp, %esi
        shll $8, %esi
        addl $0x6000, %esi
        movabsq $0xb0b0b0b0b0b00b0b, %rbx
        movabsq $0xc1c1c1c1c1c11c1c, %rcx
        movabsq $0xd2d2d2d2d2d22d2d, %rdx
        movabsq $0x0808080808080808, %r8
        movabsq $0x0909090909090909, %r9
        movabsq $0x1010101010101010, %r10
        movabsq $0x1111111111111111, %r11
        movabsq $0x1212121212121212, %r12
        movabsq $0x1313131313131313, %r13
        movabsq $0x1414141414141414, %r14
        xorl %eax, %eax
        addq %rdi, %rbx
        addq %rdi, %r8
3:      incq %rax
        movq %rax, %r15
        movq %rax, (%rsi)
        jmp 3b

        .align 16
gdt:    .quad 0
        .quad 0x00af9b000000ffff        # 08 code
        .quad 0x00cf93000000ffff        # 10 data
        .quad 0x0040f30000000fff        # 18 data of ring 3, limit in bytes
        .quad 0x00cff3000000ffff        # 20 data of ring 3
        .quad 0x0000820050000017, 0     # 28 LDT
        .quad 0x0000890080000067, 0     # 38 TSS of processor 0
        .quad 0x0000890081000067, 0     # 48 TSS of processor 1
        .quad 0x00affb000000ffff        # 58 code of ring 3
gdt_end:
gdtr:   .word gdt_end - gdt - 1
        .long BASE + gdt - ap
idtr:   .word 0x0fff
        .quad 0x9000
control: .word 0x027f
mxcsr:  .long 0x00001fa0
        .org 0xfff0
        .code16
        ljmpw $0xf000, $(start - ap)
        .org 0x10000
