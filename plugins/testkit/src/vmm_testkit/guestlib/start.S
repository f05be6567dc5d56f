/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the PVH entry (32-bit protected mode, paging off, %ebx = struct hvm_start_info *; Xen's "x86/HVM direct
 * boot ABI") to long mode and C; the start of application processors; the stubs of all 256 vectors.
 *
 * Interrupts return by popf and a far return instead of iretq, which a KVM that interprets guest kernels
 * does not know. (It differs in that NMIs stay blocked.)
 */
    .set CODE64, 0x08
    .set DATA, 0x10
    .set CODE32, 0x18

    .section .note.Xen, "a", @note
    .long 4, 8, 18              /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad pvh_entry

    .section .text.entry, "ax"
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $(cpu_stacks + STACK_SIZE), %esp
    movl %ebx, start_info
    /* page directories: 4 GiB in 2 MiB pages, present | writable | large */
    movl $page_directories, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    subl $1, %ecx
    jnz 1b
    movl $(page_directories + 3), %eax
    movl $page_pointers, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    subl $1, %ecx
    jnz 2b
    movl $(page_pointers + 3), page_root
    call enter_long_mode
    ljmp $CODE64, $start64

/* Load page_root and the GDT and switch paging on; the caller then jumps far into CODE64. */
enter_long_mode:
    lgdt gdt_pointer
    movl %cr4, %eax
    orl $0x20, %eax             /* PAE */
    movl %eax, %cr4
    movl $page_root, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      /* EFER */
    rdmsr
    orl $0x900, %eax            /* LME, NXE */
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax      /* caches on */
    orl $0x80000021, %eax       /* PG, NE, PE */
    movl %eax, %cr0
    ret

    .code64
start64:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq $(cpu_stacks + STACK_SIZE), %rsp
    xorl %ebp, %ebp
    movl start_info, %edi
    call guest_start
3:  hlt
    jmp 3b

/* Copied to AP_TRAMPOLINE; a start-up IPI begins here in real mode with %cs = AP_TRAMPOLINE >> 4. */
    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap_protected
    .balign 8
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:

    .code32
ap_protected:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl ap_stack, %esp
    call enter_long_mode
    ljmp $CODE64, $ap_long
    .code64
ap_long:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq ap_stack, %rsp
    xorl %ebp, %ebp
    call ap_start
4:  hlt
    jmp 4b

    .text
/* int try_call(void (*fn)(void *), void *arg): -1, or the vector of the exception that ended fn. */
    .globl try_call, try_return
try_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    pushq try_stack
    movq %rsp, try_stack
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    movl $-1, %eax
try_return:                     /* trap() comes here with %rsp = try_stack and %eax = vector */
    popq try_stack
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* One stub per vector, 16 bytes each: error code (0 where the CPU pushes none), vector, common part. */
    .balign 16
    .globl vector_stubs
vector_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || \
        (vector == 29) || (vector == 30))
    pushq $0
    .endif
    pushq $vector
    jmp common_stub
    .set vector, vector + 1
    .endr

common_stub:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    call trap
    movq %rbp, %rsp
    /*
     * Put RFLAGS, RIP, CS below the interrupted stack, for popf and a far return. That is over the CPU's own
     * frame, so all is read before it is written, and the new stack pointer goes into the vector's place.
     */
    movq (17 * 8)(%rsp), %rcx   /* RIP */
    movq (18 * 8)(%rsp), %rdx   /* CS */
    movq (19 * 8)(%rsp), %rbx   /* RFLAGS */
    movq (20 * 8)(%rsp), %rax   /* RSP */
    subq $24, %rax
    movq %rax, (15 * 8)(%rsp)
    movq %rbx, (%rax)
    movq %rcx, 8(%rax)
    movq %rdx, 16(%rax)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    popq %rsp
    popfq
    lretq

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 0x08 64-bit code */
    .quad 0x00cf93000000ffff    /* 0x10 data */
    .quad 0x00cf9b000000ffff    /* 0x18 32-bit code */
    .quad 0x00cff3000000ffff    /* 0x20 user data */
    .quad 0x00affb000000ffff    /* 0x28 64-bit user code */
    .fill 2 * MAX_CPUS, 8, 0    /* 0x30 task state segments */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .bss
    .balign 4096
    .globl page_root, cpu_stacks
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
cpu_stacks: .skip MAX_CPUS * STACK_SIZE
    .globl start_info, ap_stack, try_stack
start_info: .skip 8
ap_stack: .skip 8
try_stack: .skip 8

    .section .note.GNU-stack, "", @progbits
