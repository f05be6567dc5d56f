/* SPDX-License-Identifier: Apache-2.0 */
/* What the library's own files share. */
#ifndef VMM_TESTKIT_INTERNAL_H
#define VMM_TESTKIT_INTERNAL_H
#include "guest.h"

extern u64 gdt[];
extern u64 page_root[512];
extern u8 cpu_stacks[MAX_CPUS][STACK_SIZE];
extern u64 ap_stack;
extern u64 try_stack;
extern u8 ap_trampoline[], ap_trampoline_end[];
extern u8 vector_stubs[];
void try_return(void);
void cpu_init(u32 index); /* task register, IDT */
#endif
