/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

#include <sys/mman.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)

TEST(memory_translates_at_every_border) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, 4 * MIB, 0, 0), 0);
  EQ(vmm_mem_add(vm, 4 * GIB, 2 * MIB, 0, 0), 0);
  uint8_t *low = vmm_mem(vm, 0, 1), *high = vmm_mem(vm, 4 * GIB, 1);
  CHECK(low && high);
  CHECK(vmm_mem(vm, 0, 4 * MIB) == low);
  CHECK(vmm_mem(vm, 4 * MIB - 1, 1) == low + 4 * MIB - 1);
  CHECK(vmm_mem(vm, 4 * MIB - 8, 8) == low + 4 * MIB - 8);
  CHECK(!vmm_mem(vm, 0, 4 * MIB + 1));
  CHECK(!vmm_mem(vm, 4 * MIB - 1, 2));
  CHECK(!vmm_mem(vm, 4 * MIB, 1));
  CHECK(!vmm_mem(vm, 3 * GIB, 1)); /* the hole */
  CHECK(!vmm_mem(vm, 4 * GIB - 1, 1));
  CHECK(!vmm_mem(vm, 4 * GIB - 1, 2));
  CHECK(vmm_mem(vm, 4 * GIB + 2 * MIB - 1, 1) == high + 2 * MIB - 1);
  CHECK(!vmm_mem(vm, 4 * GIB + 2 * MIB, 1));
  low[4 * MIB - 1] = 1; /* really there */
  high[2 * MIB - 1] = 1;
  fake_vm_end(vm);
}

TEST(memory_lengths_that_overflow) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, MIB, MIB, 0, 0), 0);
  CHECK(!vmm_mem(vm, MIB, UINT64_MAX));
  CHECK(!vmm_mem(vm, MIB + 8, UINT64_MAX - 7));
  CHECK(!vmm_mem(vm, MIB + 8, UINT64_MAX - MIB - 7)); /* gpa + len wraps to 0 */
  CHECK(!vmm_mem(vm, 2 * MIB - 1, UINT64_MAX));
  CHECK(!vmm_mem(vm, UINT64_MAX, 1));
  CHECK(!vmm_mem(vm, UINT64_MAX, 2 * MIB));
  vmm_mem_dirty(vm, MIB, UINT64_MAX); /* nothing happens */
  EQ(vmm_mem_write(vm, 2 * MIB - 2, "abc", 3), -EFAULT);
  fake_vm_end(vm);
}

TEST(memory_neighbours_are_not_one_piece) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  EQ(vmm_mem_add(vm, MIB, MIB, 0, 0), 0);
  CHECK(vmm_mem(vm, MIB - 4, 4) && vmm_mem(vm, MIB, 4));
  CHECK(!vmm_mem(vm, MIB - 4, 8));
  fake_vm_end(vm);
}

TEST(memory_refuses_bad_regions) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0x1000, 0x3000, 0, 0), 0);
  EQ(vmm_mem_add(vm, 0, 0x2000, 0, 0), -EEXIST);
  EQ(vmm_mem_add(vm, 0x3000, 0x2000, 0, 0), -EEXIST);
  EQ(vmm_mem_add(vm, 0x2000, 0x1000, 0, 0), -EEXIST);
  EQ(vmm_mem_add(vm, 0, 0x10000, 0, 0), -EEXIST);
  EQ(vmm_mem_add(vm, 0, 0, 0, 0), -EINVAL);
  EQ(vmm_mem_add(vm, 0x8000, 0x1001, 0, 0), -EINVAL);
  EQ(vmm_mem_add(vm, 0x8001, 0x1000, 0, 0), -EINVAL);
  EQ(vmm_mem_add(vm, UINT64_MAX - 0xfff, 0x2000, 0, 0), -EINVAL);
  EQ(vmm_mem_add(vm, 0, 0x1000, 0, 0), 0);
  EQ(vmm_mem_add(vm, 0x4000, 0x1000, 0, 0), 0);
  fake_vm_end(vm);
}

TEST(memory_kvm_refusal_leaves_nothing) {
  vmm_vm *vm = fake_vm();
  fake.fail_request = KVM_SET_USER_MEMORY_REGION;
  fake.fail_errno = ENOMEM;
  EQ(vmm_mem_add(vm, 0, MIB, VMM_MEM_SHARED, 0), -ENOMEM);
  CHECK(strstr(vmm_failed(vm), "KVM_SET_USER_MEMORY_REGION"));
  fake.fail_request = 0;
  CHECK(!vmm_mem(vm, 0, 1));
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  EQ(fake.slot[0].memory_size, MIB); /* the slot number was given back */
  fake_vm_end(vm);
}

TEST(memory_is_populated_before_it_is_the_guests) {
  vmm_vm *vm = fake_vm();
  int err = 1;
  CHECK(!vmm_mem_prepare(vm, 1, MIB, 0, 0, -1, -1, &err));
  EQ(err, -EINVAL);
  for (unsigned shared = 0; shared < 2; shared++) {
    struct vmm_slot *s = vmm_mem_prepare(vm, MIB * shared, MIB, shared ? VMM_MEM_SHARED : 0, 0, -1, -1, &err);
    CHECK(s && !err);
    EQ(vmm_mem_populate(s, 0, MIB / 2), 0);
    EQ(vmm_mem_populate(s, MIB / 2, MIB / 2), 0);
    EQ(vmm_mem_populate(s, MIB / 2, MIB), -EINVAL);
    EQ(vmm_mem_populate(s, 2 * MIB, 0), -EINVAL);
    CHECK(!vmm_mem(vm, MIB * shared, 1));
    EQ(fake.slot[shared].memory_size, 0);
    EQ(vmm_mem_place(vm, s), 0);
    unsigned char there[MIB / 4096];
    EQ(mincore(vmm_mem(vm, MIB * shared, MIB), MIB, there), 0);
    for (unsigned i = 0; i < MIB / 4096; i++) CHECK(there[i] & 1);
  }
  struct vmm_slot *again = vmm_mem_prepare(vm, MIB, MIB, 0, 0, -1, -1, &err);
  EQ(vmm_mem_place(vm, again), -EEXIST);
  vmm_mem_drop(again);
  vmm_mem_drop(NULL);
  EQ(vmm_mem_add(vm, 4 * MIB, MIB, VMM_MEM_PREFAULT, 0), 0);
  fake_vm_end(vm);
}

TEST(memory_add_and_del) {
  vmm_vm *vm = fake_vm();
  for (unsigned round = 0; round < 200; round++) { /* more than old maps are kept */
    EQ(vmm_mem_add(vm, 0x100000 * (1 + round % 3), 0x100000, round & 1 ? VMM_MEM_SHARED : 0, 0), 0);
    if (round < 2) continue;
    uint64_t gone = 0x100000 * (1 + (round - 2) % 3);
    EQ(vmm_mem_del(vm, gone + 0x1000), -ENOENT);
    EQ(vmm_mem_del(vm, gone), 0);
    EQ(vmm_mem_del(vm, gone), -ENOENT);
    CHECK(!vmm_mem(vm, gone, 1));
    unsigned used = 0;
    for (unsigned i = 0; i < FAKE_SLOTS; i++) used += fake.slot[i].memory_size != 0;
    EQ(used, 2);
  }
  fake_vm_end(vm);
}

TEST(memory_kvm_sees_what_the_host_sees) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 8 * MIB + 0x3000, 4 * MIB, 0, 0), 0);
  EQ(fake.slot[0].guest_phys_addr, 8 * MIB + 0x3000);
  EQ(fake.slot[0].memory_size, 4 * MIB);
  CHECK((void *)(uintptr_t)fake.slot[0].userspace_addr == vmm_mem(vm, 8 * MIB + 0x3000, 4 * MIB));
  EQ((fake.slot[0].userspace_addr - fake.slot[0].guest_phys_addr) % (2 * MIB), 0); /* huge pages can back it */
  fake_vm_end(vm);
}

TEST(memory_shared_regions_have_a_file) {
  vmm_vm *vm = fake_vm();
  uint64_t offset = 99;
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  EQ(vmm_mem_add(vm, 16 * MIB, 2 * MIB, VMM_MEM_SHARED | VMM_MEM_PREFAULT | VMM_MEM_MERGEABLE | VMM_MEM_THP, 0), 0);
  EQ(vmm_mem_fd(vm, 0, &offset), -ENOENT);
  EQ(vmm_mem_fd(vm, 18 * MIB, &offset), -ENOENT);
  int fd = vmm_mem_fd(vm, 17 * MIB, &offset);
  CHECK(fd >= 0);
  EQ(offset, MIB);
  EQ(vmm_mem_write(vm, 17 * MIB, "seen", 4), 0);
  char seen[4];
  EQ(pread(fd, seen, 4, (off_t)offset), 4);
  CHECK(!memcmp(seen, "seen", 4));
  fake_vm_end(vm);
}

TEST(memory_loads_files) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  int fd = memfd_create("file", MFD_CLOEXEC);
  EQ(pwrite(fd, "0123456789", 10, 0), 10);
  EQ(vmm_mem_load(vm, MIB - 6, fd, 4, 6), 0);
  CHECK(!memcmp(vmm_mem(vm, MIB - 6, 6), "456789", 6));
  EQ(vmm_mem_load(vm, MIB - 5, fd, 4, 6), -EFAULT);
  EQ(vmm_mem_load(vm, 0, fd, 4, 7), -ENODATA);
  EQ(vmm_mem_load(vm, 0, -1, 0, 1), -EBADF);
  close(fd);
  fake_vm_end(vm);
}

TEST(memory_dirty_log) {
  vmm_vm *vm = fake_vm();
  uint64_t map[64] = {0};
  EQ(vmm_mem_add(vm, 0x100000, 200 * 4096, 0, 0), 0);
  EQ(vmm_mem_fetch_log(vm, 0x100000, map, 4), -ENOENT); /* not on */
  vmm_mem_dirty(vm, 0x100000, 1);
  EQ(vmm_mem_log(vm, 1), 0);
  EQ(vmm_mem_log(vm, 1), 0);
  CHECK(fake.slot[0].flags & KVM_MEM_LOG_DIRTY_PAGES);
  EQ(vmm_mem_fetch_log(vm, 0x100000, map, 3), -ENOSPC);
  EQ(vmm_mem_fetch_log(vm, 0x101000, map, 4), -ENOENT);
  fake.guest_dirty = 1ull << 7; /* the guest's own write */
  vmm_mem_dirty(vm, 0x100000 + 4096 * 3 + 4095, 2);     /* pages 3 and 4 */
  vmm_mem_dirty(vm, 0x100000 + 4096 * 63, 4096);        /* page 63 alone */
  vmm_mem_dirty(vm, 0x100000 + 4096 * 199 + 4095, 1);   /* the last byte */
  vmm_mem_dirty(vm, 0x100000 + 4096 * 100, 0);          /* nothing */
  vmm_mem_dirty(vm, 0x100000 + 4096 * 199, 4097);       /* not all RAM */
  EQ(vmm_mem_write(vm, 0x100000 + 4096 * 130, "x", 1), 0); /* page 130 */
  EQ(vmm_mem_fetch_log(vm, 0x100000, map, 4), 200);
  EQ(map[0], 1ull << 3 | 1ull << 4 | 1ull << 7 | 1ull << 63);
  EQ(map[1], 0);
  EQ(map[2], 1ull << 2);
  EQ(map[3], 1ull << 7);
  EQ(vmm_mem_fetch_log(vm, 0x100000, map, 4), 200); /* and cleared */
  EQ(map[0] | map[1] | map[2] | map[3], 0);
  EQ(vmm_mem_log(vm, 0), 0);
  EQ(fake.slot[0].flags & KVM_MEM_LOG_DIRTY_PAGES, 0);
  EQ(vmm_mem_fetch_log(vm, 0x100000, map, 4), -ENOENT);
  fake_vm_end(vm);
}

static _Atomic bool stop;
static sem_t going;

static void *dirtier(void *opaque) {
  vmm_vm *vm = opaque;
  for (unsigned i = 0; !stop; i++) {
    vmm_mem_dirty(vm, i % 256 * 4096, 64);
    if (i == 10) sem_post(&going);
  }
  return NULL;
}

TEST(memory_log_is_switched_while_loops_write) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  sem_init(&going, 0, 0);
  pthread_t t;
  pthread_create(&t, NULL, dirtier, vm);
  sem_wait(&going);
  uint64_t map[4];
  for (unsigned i = 0; i < 300; i++) {
    EQ(vmm_mem_log(vm, 1), 0);
    EQ(vmm_mem_fetch_log(vm, 0, map, 4), 256);
    EQ(vmm_mem_log(vm, 0), 0);
  }
  stop = true;
  pthread_join(t, NULL);
  fake_vm_end(vm);
}

static void *reader(void *opaque) {
  vmm_vm *vm = opaque;
  for (unsigned i = 0; !stop; i++) {
    uint8_t *p = vmm_mem(vm, 8 * 4096 * (i % 8), 8);
    CHECK(p); /* the region that stays */
    CHECK(!vmm_mem(vm, GIB * 900, 1));
    if (i == 10) sem_post(&going);
  }
  return NULL;
}

TEST(memory_is_added_while_others_translate) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  sem_init(&going, 0, 0);
  pthread_t t;
  pthread_create(&t, NULL, reader, vm);
  sem_wait(&going);
  for (unsigned i = 1; i < 40; i++) EQ(vmm_mem_add(vm, i * GIB, MIB, 0, 0), 0);
  stop = true;
  pthread_join(t, NULL);
  fake_vm_end(vm);
}

static uint64_t rom_wrote;

static void rom_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)opaque;
  if (is_write) rom_wrote = offset << 8 | vmm_load(data, size);
}

TEST(memory_of_a_rom) {
  vmm_vm *vm = fake_vm();
  static _Alignas(4096) uint8_t rom[8192];
  int slot = -1;
  EQ(vmm_mem_add(vm, GIB, MIB, 0, 0), 0);
  EQ(vmm_mem_slot(vm, &slot, GIB, sizeof rom, rom, VMM_SLOT_READONLY), -EEXIST); /* there is RAM */
  EQ(slot, -1);
  EQ(vmm_mem_slot(vm, &slot, 0x4000000, sizeof rom, rom, VMM_SLOT_READONLY), 0);
  CHECK(slot >= 0);
  EQ(fake.slot[slot].guest_phys_addr, 0x4000000);
  EQ(fake.slot[slot].flags, KVM_MEM_READONLY);
  CHECK(fake.slot[slot].userspace_addr == (uintptr_t)rom);
  CHECK(!vmm_mem(vm, 0x4000000, 1)); /* no device may write there */
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x4000000, sizeof rom, rom_io, NULL), 0);
  guest_start(vm, 1);
  guest_write(0, VMM_MMIO, 0x4001001, 1, 0x98); /* what KVM makes of a write to a read-only slot */
  EQ(rom_wrote, 0x100198);
  int was = slot;
  EQ(vmm_mem_slot(vm, &slot, 0x4000000, 0, NULL, 0), 0);
  EQ(slot, -1);
  EQ(fake.slot[was].memory_size, 0);
  EQ(vmm_mem_slot(vm, &slot, 0x4000000, 0, NULL, 0), 0); /* nothing */
  fake_vm_end(vm);
}

static sem_t entered, leave;

static void starts_a_loop(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)offset, (void)data, (void)size, (void)is_write;
  sem_post(&entered);
  while (sem_wait(&leave)) CHECK(errno == EINTR);
  CHECK(vmm_loop_get(opaque, 5)); /* as a device does that opens a byte stream */
}

static void *log_off(void *opaque) {
  EQ(vmm_mem_log(opaque, 0), 0);
  for (unsigned i = 0; i < 100; i++) { /* more than old maps are kept */
    EQ(vmm_mem_add(opaque, GIB, MIB, 0, 0), 0);
    EQ(vmm_mem_del(opaque, GIB), 0);
    if (i == 70) sem_post(&leave); /* if nobody waited for the handler until now */
  }
  return NULL;
}

TEST(memory_changes_do_not_deadlock_with_a_handler) {
  vmm_vm *vm = fake_vm();
  alarm(60);
  sem_init(&entered, 0, 0);
  sem_init(&leave, 0, 0);
  EQ(vmm_mem_add(vm, 0, MIB, 0, 0), 0);
  EQ(vmm_mem_log(vm, 1), 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0xd0000000, 4, starts_a_loop, vm), 0);
  guest_start(vm, 1);
  guest_begin(0, VMM_MMIO, 0xd0000000, 4, 0, 1);
  while (sem_wait(&entered)) CHECK(errno == EINTR);
  pthread_t t;
  pthread_create(&t, NULL, log_off, vm);
  for (unsigned i = 0; i < 1000 && !atomic_load(&vm->sync_waiters); i++) sched_yield();
  sem_post(&leave);
  guest_end(0);
  pthread_join(t, NULL);
  alarm(0);
  fake_vm_end(vm);
}
