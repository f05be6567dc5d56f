/* SPDX-License-Identifier: Apache-2.0 */
/* The controllers of CPUs and memory, used as a guest's ACPI methods do, and vCPU threads that come and go. */
#include "pci_guest.h"

#include <sys/mman.h>

enum { PRES = 0x9000, MHPC = 0xa000, CSEL = 0, CSTATUS = 4, MSTATUS = 0x14 };
enum { PRESENT = 1, INSERTED = 2, REMOVE = 4, EJECT = 8 };

static vmm_hotplug *controller(vmm_vm *vm, int kind, uint64_t at, unsigned n) {
  int err = 1;
  vmm_hotplug *h = vmm_hotplug_new(vm, kind, at, n, &err);
  CHECK(h && !err);
  return h;
}

static unsigned status(vmm_vm *vm, uint64_t at, uint32_t unit) {
  wr(vm, VMM_MMIO, at, 4, unit);
  return (unsigned)rd(vm, VMM_MMIO, at + (at == PRES ? CSTATUS : MSTATUS), 1);
}

static void set(vmm_vm *vm, uint64_t at, uint32_t unit, unsigned bits) {
  wr(vm, VMM_MMIO, at, 4, unit);
  wr(vm, VMM_MMIO, at + (at == PRES ? CSTATUS : MSTATUS), 1, bits);
}

static unsigned events(vmm_vm *vm) {
  struct vmm_event e;
  unsigned n = 0;
  while (vmm_event_next(vm, &e)) n += e.kind == VMM_EVENT_HOTPLUG;
  return n;
}

TEST(hotplug_cpu_is_seen_acknowledged_and_given_back) {
  vmm_vm *vm = fake_vm();
  vmm_hotplug *h = controller(vm, VMM_HOTPLUG_CPUS, PRES, 4);
  EQ(vmm_hotplug_insert(h, 0, 0, 0, 0), 0);
  EQ(status(vm, PRES, 0), PRESENT);
  EQ(status(vm, PRES, 1), 0);
  EQ(vmm_hotplug_insert(h, 1, 0, 0, 1), 0);
  EQ(status(vm, PRES, 1), PRESENT | INSERTED);
  EQ(rd(vm, VMM_MMIO, PRES, 4), 1); /* the selector */
  set(vm, PRES, 1, INSERTED);
  EQ(status(vm, PRES, 1), PRESENT);

  set(vm, PRES, 1, EJECT); /* nobody has asked for it */
  EQ(status(vm, PRES, 1), PRESENT);
  EQ(vmm_hotplug_gone(h), -1);
  EQ(vmm_hotplug_remove(h, 1), 0);
  EQ(vmm_hotplug_remove(h, 2), -ENOENT);
  EQ(status(vm, PRES, 1), PRESENT | REMOVE);
  set(vm, PRES, 1, REMOVE);
  EQ(status(vm, PRES, 1), PRESENT);
  EQ(vmm_hotplug_leaving(h, 1), 1);
  EQ(events(vm), 0);
  set(vm, PRES, 1, EJECT);
  EQ(status(vm, PRES, 1), 0);
  EQ(events(vm), 1);
  EQ(vmm_hotplug_leaving(h, 1), 0);
  EQ(vmm_hotplug_gone(h), 1);
  EQ(vmm_hotplug_gone(h), -1);
  set(vm, PRES, 1, EJECT);
  EQ(events(vm), 0);
  vmm_hotplug_free(h);
  EQ(rd(vm, VMM_MMIO, PRES, 4), 0xffffffff);
  fake_vm_end(vm);
}

TEST(hotplug_removal_is_taken_back_and_the_first_cpu_stays) {
  vmm_vm *vm = fake_vm();
  vmm_hotplug *h = controller(vm, VMM_HOTPLUG_CPUS, PRES, 2);
  for (unsigned i = 0; i < 2; i++) {
    EQ(vmm_hotplug_insert(h, i, 0, 0, 0), 0);
    EQ(vmm_hotplug_remove(h, i), 0);
  }
  set(vm, PRES, 0, EJECT);
  EQ(status(vm, PRES, 0) & PRESENT, PRESENT);
  EQ(vmm_hotplug_insert(h, 1, 0, 0, 1), 0);
  EQ(vmm_hotplug_leaving(h, 1), 0);
  set(vm, PRES, 1, EJECT);
  EQ(status(vm, PRES, 1), PRESENT | INSERTED);
  EQ(events(vm), 0);
  vmm_hotplug_free(h);
  fake_vm_end(vm);
}

TEST(hotplug_one_that_was_ejected_is_not_kept) {
  vmm_vm *vm = fake_vm();
  vmm_hotplug *h = controller(vm, VMM_HOTPLUG_CPUS, PRES, 2);
  EQ(vmm_hotplug_insert(h, 1, 0, 0, 0), 0);
  EQ(vmm_hotplug_keep(h, 1), 0); /* nobody has asked for it */
  EQ(status(vm, PRES, 1), PRESENT);
  EQ(vmm_hotplug_remove(h, 1), 0);
  EQ(vmm_hotplug_keep(h, 1), 1);
  EQ(status(vm, PRES, 1), PRESENT | INSERTED);
  EQ(vmm_hotplug_remove(h, 1), 0);
  set(vm, PRES, 1, EJECT);
  EQ(vmm_hotplug_keep(h, 1), 0);
  EQ(status(vm, PRES, 1), 0);
  EQ(vmm_hotplug_gone(h), 1);
  EQ(vmm_hotplug_keep(h, 2), 0);
  vmm_hotplug_free(h);
  fake_vm_end(vm);
}

TEST(hotplug_selector_beyond_the_units_meets_nobody) {
  vmm_vm *vm = fake_vm();
  vmm_hotplug *cpus = controller(vm, VMM_HOTPLUG_CPUS, PRES, 2), *memory = controller(vm, VMM_HOTPLUG_MEMORY, MHPC, 8);
  static const uint32_t far[] = {2, 8, 0x7fffffff, 0xffffffff};
  for (unsigned i = 0; i < 4; i++) {
    set(vm, PRES, far[i], EJECT | REMOVE | INSERTED);
    EQ(status(vm, PRES, far[i]), 0);
    set(vm, MHPC, far[i] | 8, EJECT | REMOVE | INSERTED);
    EQ(rd(vm, VMM_MMIO, MHPC, 8), 0);
  }
  /* Any width anywhere stays inside the block. */
  for (uint32_t size = 1; size <= 8; size *= 2)
    for (uint32_t at = 0; at + size <= 0x18; at++) {
      if (at + size <= 0xc) wr(vm, VMM_MMIO, PRES + at, size, ~0ull), rd(vm, VMM_MMIO, PRES + at, size);
      wr(vm, VMM_MMIO, MHPC + at, size, ~0ull), rd(vm, VMM_MMIO, MHPC + at, size);
    }
  EQ(vmm_hotplug_insert(cpus, 2, 0, 0, 0), -EINVAL);
  EQ(vmm_hotplug_remove(cpus, 2), -EINVAL);
  EQ(vmm_hotplug_leaving(cpus, 2), 0);
  vmm_hotplug_free(cpus);
  vmm_hotplug_free(memory);
  vmm_hotplug_free(NULL);
  fake_vm_end(vm);
}

TEST(hotplug_memory_tells_where_it_is_and_stays) {
  vmm_vm *vm = fake_vm();
  vmm_hotplug *h = controller(vm, VMM_HOTPLUG_MEMORY, MHPC, 8);
  EQ(vmm_hotplug_insert(h, 7, 0x123456789000, 0x8000000, 1), 0);
  EQ(status(vm, MHPC, 7), PRESENT | INSERTED);
  EQ(rd(vm, VMM_MMIO, MHPC, 4), 0x56789000);
  EQ(rd(vm, VMM_MMIO, MHPC + 4, 4), 0x1234);
  EQ(rd(vm, VMM_MMIO, MHPC + 8, 8), 0x8000000);
  EQ(rd(vm, VMM_MMIO, MHPC + 0x10, 4), 0);
  EQ(vmm_hotplug_remove(h, 7), 0);
  set(vm, MHPC, 7, EJECT);
  EQ(status(vm, MHPC, 7) & PRESENT, PRESENT);
  int err = 0;
  CHECK(!vmm_hotplug_new(vm, VMM_HOTPLUG_CPUS, MHPC + 8, 1, &err));
  EQ(err, -EEXIST);
  vmm_hotplug_free(h);
  fake_vm_end(vm);
}

static void hammer(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  (void)cpu, (void)turn;
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.phys_addr = 0x1000;
  run->mmio.len = 4;
  run->mmio.is_write = 1;
}

TEST(hotplug_vcpu_threads_come_and_go_while_others_run) {
  vmm_vm *vm = fake_vm();
  guest_start(vm, 4);
  for (unsigned i = 0; i < 4; i++) guest_program(i, hammer);
  EQ(vmm_vcpu_start(vm, 1), -EINVAL); /* it runs */
  EQ(vmm_vcpu_start(vm, 5), -EINVAL); /* there is none */
  vmm_vcpu_stop(vm, 5);
  for (unsigned round = 0; round < 50; round++) {
    unsigned i = 1 + round % 3;
    vmm_vcpu_stop(vm, i);
    vmm_vcpu_stop(vm, i);
    uint64_t turns = guest_turns(i);
    guest_wait_turns(0, 2);
    EQ(guest_turns(i), turns);
    if (round % 2) EQ(vmm_vcpus_pause(vm), 0);
    EQ(vmm_vcpu_start(vm, i), 0);
    if (round % 2) {
      EQ(vmm_vcpus_pause(vm), 0); /* the new one is parked, too */
      EQ(guest_turns(i), turns);
      EQ(vmm_vcpus_resume(vm), 0);
    }
    guest_wait_turns(i, 1);
  }
  EQ(vmm_vcpus_pause(vm), 0);
  vmm_vcpu_stop(vm, 3); /* while it waits */
  EQ(vmm_vcpus_resume(vm), 0);
  guest_wait_turns(0, 1);
  fake_vm_end(vm);
}

TEST(hotplug_nmi_reaches_every_vcpu_that_runs) {
  vmm_vm *vm = fake_vm();
  guest_start(vm, 3);
  for (unsigned i = 0; i < 3; i++) guest_program(i, hammer);
  EQ(vmm_vcpus_nmi(vm), 0);
  for (unsigned i = 0; i < 3; i++) guest_wait_turns(i, 3);
  while (atomic_load(&fake.nmis) < 3) sched_yield();
  vmm_vcpu_stop(vm, 2);
  EQ(vmm_vcpus_pause(vm), 0);
  EQ(vmm_vcpus_nmi(vm), 0); /* when they go on */
  EQ(atomic_load(&fake.nmis), 3);
  EQ(vmm_vcpus_resume(vm), 0);
  while (atomic_load(&fake.nmis) < 5) sched_yield();
  fake.lacks = KVM_CAP_USER_NMI;
  EQ(vmm_vcpus_nmi(vm), -ENOTSUP);
  EQ(atomic_load(&fake.nmis), 5);
  fake_vm_end(vm);
}

TEST(hotplug_ram_comes_while_guests_look_it_up) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, 1 << 20, 0, 0), 0);
  guest_start(vm, 2);
  for (unsigned i = 0; i < 2; i++) guest_program(i, hammer);
  for (uint64_t i = 1; i < 32; i++) {
    EQ(vmm_mem_add(vm, i << 20, 1 << 20, 0, 0), 0);
    EQ(vmm_mem_write(vm, (i << 20) - 8, "over the edge", 13), 0); /* two regions that touch */
  }
  char back[14] = {0};
  memcpy(back, vmm_mem(vm, (31 << 20) - 8, 8), 8);
  memcpy(back + 8, vmm_mem(vm, 31 << 20, 5), 5);
  CHECK(!strcmp(back, "over the edge"));
  EQ(vmm_mem_write(vm, (32 << 20) - 8, "over the edge", 13), -EFAULT);
  EQ(vmm_mem_slots(vm), 32);
  fake_vm_end(vm);
}

TEST(hotplug_ram_is_logged_when_the_rest_is) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, 1 << 20, 0, 0), 0);
  EQ(vmm_mem_log(vm, 1), 0);
  EQ(vmm_mem_add(vm, 1 << 20, 1 << 20, 0, 0), 0);
  EQ(fake.slot[1].flags, KVM_MEM_LOG_DIRTY_PAGES);
  EQ(vmm_mem_write(vm, (1 << 20) + 0x3000, "x", 1), 0);
  uint64_t bitmap[4] = {0};
  EQ(vmm_mem_fetch_log(vm, 1 << 20, bitmap, 4), 256);
  EQ(bitmap[0], 8);
  EQ(vmm_mem_log(vm, 0), 0);
  EQ(fake.slot[1].flags, 0);
  EQ(vmm_mem_add(vm, 2 << 20, 1 << 20, 0, 0), 0);
  EQ(vmm_mem_fetch_log(vm, 2 << 20, bitmap, 4), -ENOENT);
  fake_vm_end(vm);
}

TEST(hotplug_ram_of_files) {
  vmm_vm *vm = fake_vm();
  int fd = memfd_create("backing", MFD_CLOEXEC);
  CHECK(fd >= 0 && !ftruncate(fd, 4 << 20));
  EQ(vmm_mem_add_from(vm, 0, 1 << 20, VMM_MEM_SHARED, 0, fd, -1), 0);
  EQ(vmm_mem_add_from(vm, 1 << 20, 1 << 20, 0, 0, fd, -1), 0);
  char byte = 0;
  EQ(vmm_mem_write(vm, 0x1234, "x", 1), 0);
  EQ(pread(fd, &byte, 1, 0x1234), 1);
  EQ(byte, 'x');
  EQ(*(char *)vmm_mem(vm, (1 << 20) + 0x1234, 1), 'x');
  EQ(vmm_mem_write(vm, (1 << 20) + 0x1234, "y", 1), 0); /* a copy of its own */
  EQ(pread(fd, &byte, 1, 0x1234), 1);
  EQ(byte, 'x');
  uint64_t offset = 1;
  int same = vmm_mem_fd(vm, 0x2000, &offset);
  CHECK(same >= 0 && same != fd);
  EQ(offset, 0x2000);
  EQ(vmm_mem_fd(vm, 1 << 20, &offset), -ENOENT);
  EQ(vmm_mem_add_from(vm, 8 << 20, 1 << 20, 0, 0, -1, 1 << 20), -EINVAL); /* no such node */
  EQ(vmm_mem_slots(vm), 2);
  EQ(vmm_mem_add_from(vm, 8 << 20, 1 << 20, 0, 0, -1, 0), 0);
  close(fd);
  EQ(vmm_mem_write(vm, 0x1235, "z", 1), 0);
  fake_vm_end(vm);
}
