/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

struct seen {
  uint64_t offset, value;
  uint32_t size;
  int is_write;
  _Atomic unsigned n;
};

static void record(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct seen *s = opaque;
  s->offset = offset, s->size = size, s->is_write = is_write;
  if (is_write)
    s->value = vmm_load(data, size);
  else
    vmm_store(data, size, 0x1122334455667788u);
  s->n++;
}

static void silent(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)opaque, (void)offset, (void)data, (void)size, (void)is_write;
}

static uint64_t peek(vmm_vm *vm, int space, uint64_t addr, uint32_t size) {
  uint8_t data[8] = {0};
  vmm_bus_access(vm, space, addr, data, size, 0);
  return vmm_load(data, size);
}

static void poke(vmm_vm *vm, int space, uint64_t addr, uint32_t size, uint64_t v) {
  uint8_t data[8];
  vmm_store(data, 8, v);
  vmm_bus_access(vm, space, addr, data, size, 1);
}

TEST(bus_finds_a_region_at_both_borders) {
  vmm_vm *vm = fake_vm();
  struct seen s = {0};
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 0x10, record, &s), 0);
  EQ(peek(vm, VMM_MMIO, 0x1000, 1), 0x88);
  EQ(s.offset, 0);
  EQ(peek(vm, VMM_MMIO, 0x100f, 1), 0x88);
  EQ(s.offset, 15);
  poke(vm, VMM_MMIO, 0x1008, 8, 0xfedcba9876543210u);
  EQ(s.value, 0xfedcba9876543210u);
  EQ(s.size, 8);
  EQ(s.n, 3);
  EQ(peek(vm, VMM_MMIO, 0xfff, 1), 0xff);
  EQ(peek(vm, VMM_MMIO, 0x1010, 1), 0xff);
  EQ(peek(vm, VMM_PIO, 0x1000, 1), 0xff); /* the other space */
  EQ(s.n, 3);
  fake_vm_end(vm);
}

TEST(bus_access_over_an_end_meets_nobody) {
  vmm_vm *vm = fake_vm();
  struct seen a = {0}, b = {0};
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 0x10, record, &a), 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1010, 0x10, record, &b), 0);
  EQ(peek(vm, VMM_MMIO, 0x100e, 4), 0xffffffff);
  poke(vm, VMM_MMIO, 0x100d, 4, 0);
  EQ(peek(vm, VMM_MMIO, 0xffe, 4), 0xffffffff);
  EQ(peek(vm, VMM_MMIO, 0x101d, 8), -1);
  EQ(a.n + b.n, 0);
  fake_vm_end(vm);
}

TEST(bus_a_silent_handler_reads_as_all_ones) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_PIO, 0x80, 4, silent, NULL), 0);
  EQ(peek(vm, VMM_PIO, 0x80, 4), 0xffffffff);
  fake_vm_end(vm);
}

TEST(bus_refuses_overlap_and_wrap) {
  vmm_vm *vm = fake_vm();
  struct seen s = {0};
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 0x100, record, &s), 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 0x100, record, &s), -EEXIST);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x10ff, 1, record, &s), -EEXIST);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0xfff, 2, record, &s), -EEXIST);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x800, 0x1000, record, &s), -EEXIST);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1010, 0x10, record, &s), -EEXIST);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0xfff, 1, record, &s), 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1100, 1, record, &s), 0);
  EQ(vmm_bus_add(vm, VMM_PIO, 0x1000, 0x100, record, &s), 0); /* spaces are apart */
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x2000, 0, record, &s), -EINVAL);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x2000, 8, NULL, &s), -EINVAL);
  EQ(vmm_bus_add(vm, VMM_MMIO, UINT64_MAX - 6, 8, record, &s), -EINVAL);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x2000, UINT64_MAX, record, &s), -EINVAL);
  EQ(vmm_bus_add(vm, VMM_MMIO, UINT64_MAX - 7, 8, record, &s), 0); /* up to the very end */
  EQ(peek(vm, VMM_MMIO, UINT64_MAX, 1), 0x88);
  EQ(peek(vm, VMM_MMIO, UINT64_MAX, 4), 0xffffffff);
  EQ(s.n, 1);
  fake_vm_end(vm);
}

TEST(bus_removes_only_what_starts_there) {
  vmm_vm *vm = fake_vm();
  struct seen s = {0};
  for (uint64_t i = 0; i < 64; i++) /* not in order */
    EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000 * ((i * 37) % 64), 0x1000, record, &s), 0);
  EQ(vmm_bus_del(vm, VMM_MMIO, 0x5004), -ENOENT);
  EQ(vmm_bus_del(vm, VMM_PIO, 0x5000), -ENOENT);
  EQ(vmm_bus_del(vm, VMM_MMIO, UINT64_MAX), -ENOENT);
  EQ(vmm_bus_del(vm, VMM_MMIO, 0x5000), 0);
  EQ(vmm_bus_del(vm, VMM_MMIO, 0x5000), -ENOENT);
  EQ(peek(vm, VMM_MMIO, 0x5000, 1), 0xff);
  EQ(peek(vm, VMM_MMIO, 0x4fff, 1), 0x88);
  EQ(peek(vm, VMM_MMIO, 0x6000, 1), 0x88);
  EQ(s.offset, 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x5000, 0x1000, record, &s), 0);
  fake_vm_end(vm);
}

TEST(bus_move_is_one_step) {
  vmm_vm *vm = fake_vm();
  struct seen a = {0}, b = {0};
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 0x1000, record, &a), 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x4000, 0x1000, record, &b), 0);
  EQ(vmm_bus_move(vm, VMM_MMIO, 0x1000, 0x1800, 0x1000, record, &a), 0); /* over itself */
  EQ(peek(vm, VMM_MMIO, 0x1000, 1), 0xff);
  EQ(peek(vm, VMM_MMIO, 0x27ff, 1), 0x88);
  EQ(vmm_bus_move(vm, VMM_MMIO, 0x1800, 0x3800, 0x1000, record, &a), -EEXIST); /* into another: stays */
  EQ(peek(vm, VMM_MMIO, 0x1800, 1), 0x88);
  EQ(vmm_bus_move(vm, VMM_MMIO, 0x9000, 0xa000, 0x1000, record, &a), -ENOENT);
  EQ(peek(vm, VMM_MMIO, 0xa000, 1), 0xff);
  EQ(b.n, 0);
  fake_vm_end(vm);
}

/* --- with vCPUs --- */

struct gate {
  sem_t entered, leave;
  _Atomic int inside;
};

static void gate_handler(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)offset, (void)data, (void)size, (void)is_write;
  struct gate *g = opaque;
  g->inside = 1;
  sem_post(&g->entered);
  while (sem_wait(&g->leave)) CHECK(errno == EINTR);
  g->inside = 0;
}

struct del_arg {
  vmm_vm *vm;
  struct gate *gate;
  sem_t started;
};

static void *del_thread(void *opaque) {
  struct del_arg *a = opaque;
  sem_post(&a->started);
  EQ(vmm_bus_del(a->vm, VMM_MMIO, 0x1000), 0);
  EQ(a->gate->inside, 0);
  return NULL;
}

TEST(bus_del_waits_for_a_running_handler) {
  vmm_vm *vm = fake_vm();
  struct gate g = {.inside = 0};
  sem_init(&g.entered, 0, 0);
  sem_init(&g.leave, 0, 0);
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 8, gate_handler, &g), 0);
  guest_start(vm, 2);
  guest_begin(0, VMM_MMIO, 0x1000, 4, 1, 1);
  while (sem_wait(&g.entered)) {
  }
  struct del_arg a = {.vm = vm, .gate = &g};
  sem_init(&a.started, 0, 0);
  pthread_t t;
  pthread_create(&t, NULL, del_thread, &a);
  sem_wait(&a.started);
  /* Once it is unmapped the deleting thread can only be waiting for the handler. */
  while (guest_read(1, VMM_MMIO, 0x1004, 8) != UINT64_MAX) CHECK(!"an access over the end reached the handler");
  while (!atomic_load(&vm->sync_waiters)) sched_yield();
  EQ(g.inside, 1);
  sem_post(&g.leave);
  guest_end(0);
  pthread_join(t, NULL);
  EQ(guest_read(0, VMM_MMIO, 0x1000, 4), 0xffffffff);
  fake_vm_end(vm);
}

static void suicide(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)offset, (void)size, (void)is_write;
  EQ(vmm_bus_del(opaque, VMM_MMIO, 0x1000), 0); /* must not wait for itself */
  vmm_store(data, size, 0x5a);
}

TEST(bus_handler_may_remove_itself) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 8, suicide, vm), 0);
  guest_start(vm, 1);
  EQ(guest_read(0, VMM_MMIO, 0x1000, 4), 0x5a);
  EQ(guest_read(0, VMM_MMIO, 0x1000, 4), 0xffffffff);
  fake_vm_end(vm);
}

/* A device that is freed as soon as bus_del() says that nobody is in it. */
struct mortal {
  _Atomic uint64_t hits;
  uint32_t alive;
};

static void mortal_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)offset, (void)data, (void)size, (void)is_write;
  struct mortal *m = opaque;
  CHECK(m->alive == 0xa11fe);
  m->hits++;
}

static void sweep(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.phys_addr = 0x1000 + (turn * 5 + cpu) % 16 * 0x100;
  run->mmio.len = 4;
  run->mmio.is_write = (uint8_t)(turn & 1);
}

TEST(bus_changes_while_vcpus_run) {
  vmm_vm *vm = fake_vm();
  guest_start(vm, 4);
  for (unsigned i = 0; i < 4; i++) guest_program(i, sweep);
  uint64_t hits = 0;
  struct mortal *dev[16] = {0};
  for (unsigned round = 0; round < 3000 || !hits; round++) {
    unsigned slot = (round * 7) % 16;
    if (!dev[slot]) {
      dev[slot] = calloc(1, sizeof *dev[slot]);
      dev[slot]->alive = 0xa11fe;
      EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000 + slot * 0x100, 0x100, mortal_io, dev[slot]), 0);
    } else {
      EQ(vmm_bus_del(vm, VMM_MMIO, 0x1000 + slot * 0x100), 0);
      hits += dev[slot]->hits;
      dev[slot]->alive = 0;
      free(dev[slot]);
      dev[slot] = NULL;
    }
  }
  for (unsigned i = 0; i < 4; i++) guest_program(i, NULL);
  unsigned waiting = 0;
  for (struct vmm_retired *r = vm->bus[VMM_MMIO].retired; r; r = r->next) waiting++;
  CHECK(waiting < 1000); /* replaced tables are given back while the guest runs */
  fake_vm_end(vm);
  for (unsigned i = 0; i < 16; i++) free(dev[i]);
}

TEST(bus_ports_in_memory) {
  vmm_vm *vm = fake_vm();
  struct seen s = {0};
  EQ(vmm_bus_ports(vm, 0x9050000, 0x10000), 0);
  EQ(vmm_bus_add(vm, VMM_PIO, 0x1000, 8, record, &s), 0);
  guest_start(vm, 1);
  EQ(guest_read(0, VMM_MMIO, 0x9051004, 2), 0x7788);
  EQ(s.offset, 4);
  guest_write(0, VMM_MMIO, 0x9051000, 4, 0x1234);
  EQ(s.value, 0x1234);
  EQ(guest_read(0, VMM_MMIO, 0x9051006, 4), 0xffffffffu); /* over the end of the port's region */
  EQ(guest_read(0, VMM_MMIO, 0x9052000, 1), 0xff);
  EQ(s.n, 2);
  int fd = eventfd(0, EFD_CLOEXEC);
  EQ(vmm_ioeventfd(vm, VMM_PIO, 0x1000, 2, fd, 1), 0);
  EQ(fake.ioeventfd[0].addr, 0x9051000); /* where the guest writes it */
  EQ(fake.ioeventfd[0].flags, 0);
  EQ(vmm_ioeventfd(vm, VMM_PIO, 0x1000, 2, fd, 0), 0);
  close(fd);
  fake_vm_end(vm);
}
