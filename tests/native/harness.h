/* SPDX-License-Identifier: Apache-2.0 */
/* The frame of the native tests: test registration, checks, a fake KVM with guests made of single accesses. */
#ifndef HARNESS_H
#define HARNESS_H

#include "native.h"
#include "pci.h"

#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

void test_register(const char *name, void (*fn)(void));
void test_fail(const char *file, int line, const char *what) __attribute__((noreturn));
void test_fail_values(const char *file, int line, const char *what, long long a, long long b) __attribute__((noreturn));

/* Each TEST is a pytest case of its own; test_native.py finds them by this macro. */
#define TEST(name)                                                                             \
  static void name(void);                                                                      \
  __attribute__((constructor)) static void register_##name(void) { test_register(#name, name); } \
  static void name(void)
#define CHECK(cond)                                           \
  do {                                                        \
    if (!(cond)) test_fail(__FILE__, __LINE__, #cond);        \
  } while (0)
#define EQ(a, b)                                                                               \
  do {                                                                                         \
    long long eq_a = (long long)(a), eq_b = (long long)(b);                                    \
    if (eq_a != eq_b) test_fail_values(__FILE__, __LINE__, #a " == " #b, eq_a, eq_b);          \
  } while (0)

/* --- fake_kvm.c: what KVM would know, and what it was asked --- */

enum { FAKE_IRQFDS = 4096, FAKE_IOEVENTFDS = 256, FAKE_SLOTS = 512, FAKE_CPUS = 8 };

struct fake_irqfd {
  int fd; /* 0: free */
  uint32_t gsi;
  uint64_t stale; /* count that was in the eventfd when it was assigned: KVM injects for it but leaves it there */
};

struct fake_ioeventfd {
  uint64_t addr;
  uint32_t len, flags;
  int fd;
};

struct fake_cpu;

struct fake_kvm {
  pthread_mutex_t lock;
  uint64_t vcpus[4];               /* a bit for each number that KVM_CREATE_VCPU has had */
  struct kvm_irq_routing *routing; /* the last table; NULL: none */
  unsigned routings;               /* KVM_SET_GSI_ROUTING calls */
  struct fake_irqfd irqfd[FAKE_IRQFDS];
  unsigned irqfd_calls;
  uint64_t delivered[VMM_MAX_GSI]; /* interrupts that reached the guest, by GSI */
  void (*before_irqfd)(int fd);    /* called as an irqfd is about to be assigned */
  struct fake_ioeventfd ioeventfd[FAKE_IOEVENTFDS];
  unsigned n_ioeventfds;
  struct kvm_userspace_memory_region slot[FAKE_SLOTS];
  uint64_t guest_dirty; /* first word of the next KVM_GET_DIRTY_LOG */
  struct kvm_irq_level line[64];
  unsigned n_lines; /* KVM_IRQ_LINE calls */
  _Atomic unsigned nmis; /* KVM_NMI calls, each on its vCPU's own thread */
  long lacks;       /* a capability that this KVM has not */
  uint64_t attr[4]; /* device attributes of group 7 */
  unsigned long vm_type; /* of the last KVM_CREATE_VM */
  unsigned long fail_request;
  int fail_errno; /* fail_request fails with it */
};
extern struct fake_kvm fake;

vmm_vm *fake_vm(void);
void fake_vm_end(vmm_vm *vm);
/* What the kernel does by itself: look at the irqfds and deliver. */
void fake_deliver(void);
/* Interrupts delivered so far with this MSI message. */
uint64_t fake_messages(uint64_t addr, uint32_t data);

/* --- guests: `n` vCPU threads of the core, each making the accesses it is told to make --- */

void guest_make(vmm_vm *vm, unsigned n); /* vCPUs without threads */
void guest_start(vmm_vm *vm, unsigned n);
uint64_t guest_read(unsigned cpu, int space, uint64_t addr, uint32_t size);
void guest_write(unsigned cpu, int space, uint64_t addr, uint32_t size, uint64_t value);
/* The two halves of an access: begin() returns at once, end() waits for it. */
void guest_begin(unsigned cpu, int space, uint64_t addr, uint32_t size, uint64_t value, int is_write);
uint64_t guest_end(unsigned cpu);
/* Have the guest make accesses by itself: `next` fills in the exit. NULL: stop (returns when it did). */
typedef void (*guest_next)(unsigned cpu, uint64_t turn, struct kvm_run *run);
void guest_program(unsigned cpu, guest_next next);
uint64_t guest_turns(unsigned cpu);
void guest_wait_turns(unsigned cpu, uint64_t more);
void guest_exit(unsigned cpu, const struct kvm_run *run); /* any other exit */

/* --- small helps --- */
void wait_readable(int fd);
void set_nonblock(int fd);
/* How many epoll_wait() calls the program makes in a while in which nothing is to be done. A thread that starts
 * late or finishes something makes a few, a loop that spins makes thousands. */
unsigned idle_waits(void);
#define CHECK_SLEEPS() CHECK(idle_waits() < 20)

#endif
