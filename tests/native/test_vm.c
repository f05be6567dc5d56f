/* SPDX-License-Identifier: Apache-2.0 */
/* Events, vCPU states, and errors of VM creation. */
#include "harness.h"

TEST(vm_creation_errors_name_the_call) {
  int err = 0;
  const char *what = "";
  CHECK(!vmm_vm_new("/nonexistent/kvm", 0, &err, &what));
  EQ(err, ENOENT);
  CHECK(strstr(what, "open"));
  unsigned long request[] = {KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE};
  const char *name[] = {"KVM_GET_API_VERSION", "KVM_CREATE_VM", "KVM_GET_VCPU_MMAP_SIZE"};
  for (unsigned i = 0; i < 3; i++) {
    fake.fail_request = request[i];
    fake.fail_errno = ENOSPC;
    CHECK(!vmm_vm_new("/dev/null", 0, &err, &what));
    EQ(err, ENOSPC);
    CHECK(!strcmp(what, name[i]));
  }
}

TEST(vm_of_a_type) {
  int err = 0;
  const char *what = "";
  vmm_vm *vm = vmm_vm_new("/dev/null", 36, &err, &what);
  CHECK(vm);
  EQ(fake.vm_type, 36);
  fake_vm_end(vm);
}

TEST(vm_api_table) {
  const struct vmm_api *api = vmm_api_get();
  EQ(vmm_api_check(api, VMM_API_MINOR), 0);
  EQ(vmm_api_check(api, VMM_API_MINOR + 1), -3);
  EQ(vmm_api_check(NULL, 0), -1);
  EQ(api->size, sizeof *api);
  for (size_t at = offsetof(struct vmm_api, bus_add); at < sizeof *api; at += sizeof(void *)) {
    void *slot;
    memcpy(&slot, (const char *)api + at, sizeof slot);
    CHECK(slot);
  }
}

TEST(events_come_in_order_and_wake_the_main_thread) {
  vmm_vm *vm = fake_vm();
  uint32_t events = 7;
  struct vmm_event e;
  EQ(vmm_event_next(vm, &e), 0);
  EQ(vmm_poll_wait(vm, 0, &events), -ETIMEDOUT);
  vmm_post_event(vm, VMM_EVENT_STAMP, 1);
  vmm_post_event(vm, VMM_EVENT_DEVICE, 2);
  EQ(vmm_poll_wait(vm, -1, &events), 0);
  EQ(events, 0);
  EQ(vmm_event_next(vm, &e), 1);
  EQ(e.kind, VMM_EVENT_STAMP);
  EQ(e.arg, 1);
  CHECK(e.time_ns && e.time_ns <= vmm_now_ns());
  EQ(vmm_event_next(vm, &e), 1);
  EQ(e.kind, VMM_EVENT_DEVICE);
  EQ(vmm_event_next(vm, &e), 0);
  EQ(vmm_poll_wait(vm, 0, &events), -ETIMEDOUT); /* drained: quiet again */
  fake_vm_end(vm);
}

TEST(events_overflow_keeps_room_for_the_end) {
  vmm_vm *vm = fake_vm();
  struct vmm_event e;
  for (unsigned i = 0; i < 10 * VMM_EVENTS; i++) vmm_post_event(vm, VMM_EVENT_STAMP, i);
  vmm_post_event(vm, VMM_EVENT_SHUTDOWN, 42);
  unsigned n = 0;
  while (vmm_event_next(vm, &e) && e.kind == VMM_EVENT_STAMP) EQ(e.arg, n++); /* the oldest are kept */
  CHECK(n >= VMM_EVENTS / 2 && n < VMM_EVENTS);
  EQ(e.kind, VMM_EVENT_SHUTDOWN);
  EQ(e.arg, 42);
  EQ(vm->events_lost, 10 * VMM_EVENTS - n);
  fake_vm_end(vm);
}

TEST(events_only_the_first_end_counts) {
  uint32_t kinds[] = {VMM_EVENT_SHUTDOWN, VMM_EVENT_RESET, VMM_EVENT_TRIPLE,
                      VMM_EVENT_ERROR,    VMM_EVENT_EXIT,  VMM_EVENT_QUIT};
  for (unsigned first = 0; first < 6; first++) {
    vmm_vm *vm = fake_vm();
    struct vmm_event e;
    vmm_post_event(vm, VMM_EVENT_PANIC, 1); /* not an end: the guest may go on to reboot */
    for (unsigned i = 0; i < 12; i++) vmm_post_event(vm, kinds[(first + i) % 6], i);
    EQ(vmm_event_next(vm, &e), 1);
    EQ(e.kind, VMM_EVENT_PANIC);
    EQ(vmm_event_next(vm, &e), 1);
    EQ(e.kind, kinds[first]);
    EQ(e.arg, 0);
    EQ(vmm_event_next(vm, &e), 0);
    fake_vm_end(vm);
  }
}

static void *poster(void *opaque) {
  for (unsigned i = 0; i < 200; i++) vmm_post_event(opaque, i == 150 ? VMM_EVENT_EXIT : VMM_EVENT_STAMP, i);
  return NULL;
}

TEST(events_from_many_threads_have_one_end) {
  vmm_vm *vm = fake_vm();
  pthread_t t[4];
  for (unsigned i = 0; i < 4; i++) pthread_create(&t[i], NULL, poster, vm);
  unsigned ends = 0;
  struct vmm_event e;
  while (!ends) {
    uint32_t events;
    EQ(vmm_poll_wait(vm, -1, &events), 0);
    while (vmm_event_next(vm, &e)) ends += e.kind == VMM_EVENT_EXIT;
  }
  for (unsigned i = 0; i < 4; i++) pthread_join(t[i], NULL);
  while (vmm_event_next(vm, &e)) ends += e.kind == VMM_EVENT_EXIT;
  EQ(ends, 1);
  fake_vm_end(vm);
}

TEST(poll_reports_other_fds) {
  vmm_vm *vm = fake_vm();
  int p[2];
  uint32_t events;
  CHECK(!pipe(p));
  EQ(vmm_poll_add(vm, p[0], POLLIN), 0);
  EQ(vmm_poll_add(vm, p[0], POLLIN), -EEXIST);
  EQ(write(p[1], "x", 1), 1);
  EQ(vmm_poll_wait(vm, -1, &events), p[0]);
  CHECK(events & POLLIN);
  EQ(vmm_poll_del(vm, p[0]), 0);
  EQ(vmm_poll_del(vm, p[0]), -ENOENT);
  EQ(vmm_poll_wait(vm, 0, &events), -ETIMEDOUT);
  close(p[0]);
  close(p[1]);
  fake_vm_end(vm);
}

/* --- vCPU states --- */

static _Atomic unsigned accesses;

static void count(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)opaque, (void)offset, (void)data, (void)size, (void)is_write;
  accesses++;
}

static void hammer(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  (void)cpu, (void)turn;
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.phys_addr = 0x1000;
  run->mmio.len = 4;
  run->mmio.is_write = 1;
}

TEST(vcpus_pause_means_no_handler_runs) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 4, count, NULL), 0);
  guest_start(vm, 4);
  for (unsigned i = 0; i < 4; i++) guest_program(i, hammer);
  for (unsigned round = 0; round < 50; round++) {
    guest_wait_turns(round % 4, 3);
    EQ(vmm_vcpus_pause(vm), 0);
    unsigned before = accesses;
    for (unsigned i = 0; i < 100; i++) sched_yield();
    EQ(accesses, before);
    EQ(vmm_vcpus_pause(vm), 0); /* twice is once */
    EQ(vmm_vcpus_resume(vm), 0);
    EQ(vmm_vcpus_resume(vm), -EINVAL);
  }
  guest_wait_turns(0, 1);
  fake_vm_end(vm);
}

TEST(vcpus_pause_finishes_the_access) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 4, count, NULL), 0);
  guest_start(vm, 1);
  guest_program(0, hammer);
  for (unsigned i = 0; i < 200; i++) {
    guest_wait_turns(0, 1);
    EQ(vmm_vcpus_pause(vm), 0);
    EQ(guest_turns(0), accesses); /* KVM was entered once more after the last exit: registers are whole */
    EQ(vmm_vcpus_resume(vm), 0);
  }
  fake_vm_end(vm);
}

/* One that has run, while the first one has not yet. */
TEST(vcpu_pause_completes_an_access_of_any_vcpu) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 4, count, NULL), 0);
  guest_make(vm, 2);
  guest_program(1, hammer);
  EQ(vmm_vcpus_start(vm, 0, 0), 0);
  EQ(vmm_vcpu_start(vm, 1), 0);
  guest_wait_turns(1, 5);
  EQ(vmm_vcpus_pause(vm), 0);
  guest_program(1, NULL); /* returns when nothing is under way */
  fake_vm_end(vm);
}

/* All of them parked: each that parks wakes those that wait for it, and nobody wakes it for that. */
TEST(vcpus_that_are_paused_sleep) {
  vmm_vm *vm = fake_vm();
  guest_start(vm, 4);
  for (unsigned round = 0; round < 5; round++) {
    struct timespec before, after;
    EQ(vmm_vcpus_pause(vm), 0);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    poll(NULL, 0, 100);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used = (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
    if (used < 20000000) break; /* a vCPU may have been on its way still; five times in a row is no chance */
    CHECK(round < 4);
    EQ(vmm_vcpus_resume(vm), 0);
  }
  fake_vm_end(vm);
}

TEST(vcpus_stop_at_an_end_event) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_bus_add(vm, VMM_MMIO, 0x1000, 4, count, NULL), 0);
  guest_start(vm, 3);
  for (unsigned i = 0; i < 3; i++) guest_program(i, hammer);
  guest_wait_turns(2, 5);
  struct vmm_event e;
  vmm_post_event(vm, VMM_EVENT_SHUTDOWN, 0);
  EQ(vmm_vcpus_pause(vm), 0);
  unsigned before = accesses;
  EQ(vmm_vcpus_resume(vm), -EINVAL); /* halted for good */
  EQ(accesses, before);
  EQ(vmm_event_next(vm, &e), 1);
  EQ(e.kind, VMM_EVENT_SHUTDOWN);
  fake_vm_end(vm);
}

static void expect_event(const struct kvm_run *run, uint32_t kind, const char *text) {
  vmm_vm *vm = fake_vm();
  guest_start(vm, 2);
  guest_exit(1, run);
  uint32_t events;
  struct vmm_event e;
  EQ(vmm_poll_wait(vm, -1, &events), 0);
  EQ(vmm_event_next(vm, &e), 1);
  EQ(e.kind, kind);
  if (kind == VMM_EVENT_TRIPLE || kind == VMM_EVENT_ERROR) EQ(e.arg, 1);
  vmm_vcpus_stop(vm);
  if (!strstr(vmm_error_text(vm), text)) test_fail(__FILE__, __LINE__, vmm_error_text(vm));
  fake_vm_end(vm);
}

TEST(vcpu_exits_become_events) {
  struct kvm_run run = {.exit_reason = KVM_EXIT_SHUTDOWN};
  expect_event(&run, VMM_EVENT_TRIPLE, "");
  run = (struct kvm_run){.exit_reason = KVM_EXIT_SYSTEM_EVENT};
  run.system_event.type = KVM_SYSTEM_EVENT_SHUTDOWN;
  expect_event(&run, VMM_EVENT_SHUTDOWN, "");
  run.system_event.type = KVM_SYSTEM_EVENT_RESET;
  expect_event(&run, VMM_EVENT_RESET, "");
  run.system_event.type = KVM_SYSTEM_EVENT_CRASH;
  expect_event(&run, VMM_EVENT_PANIC, "");
  run.system_event.type = 77;
  expect_event(&run, VMM_EVENT_ERROR, "SYSTEM_EVENT");
  run = (struct kvm_run){.exit_reason = KVM_EXIT_INTERNAL_ERROR};
  run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  expect_event(&run, VMM_EVENT_ERROR, "could not emulate");
  run = (struct kvm_run){.exit_reason = KVM_EXIT_FAIL_ENTRY};
  run.fail_entry.hardware_entry_failure_reason = 0x80000021;
  expect_event(&run, VMM_EVENT_ERROR, "0x80000021");
  run = (struct kvm_run){.exit_reason = KVM_EXIT_ARM_NISV};
  run.arm_nisv.fault_ipa = 0x9000000;
  expect_event(&run, VMM_EVENT_ERROR, "0x9000000");
  run = (struct kvm_run){.exit_reason = 999};
  expect_event(&run, VMM_EVENT_ERROR, "0x3e7");
}

TEST(vcpu_creation_errors) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_vcpu_new(vm, VMM_MAX_VCPUS, 0), -EINVAL);
  fake.fail_request = KVM_CREATE_VCPU;
  fake.fail_errno = EMFILE;
  EQ(vmm_vcpu_new(vm, 0, 0), -EMFILE);
  CHECK(strstr(vmm_failed(vm), "KVM_CREATE_VCPU"));
  fake.fail_request = 0;
  EQ(vmm_vcpu_fd(vm, 0), -ENOENT);
  int size = vm->run_size;
  vm->run_size = -4096; /* more than there are addresses */
  EQ(vmm_vcpu_new(vm, 0, 0), -ENOMEM);
  CHECK(strstr(vmm_failed(vm), "mmap of kvm_run"));
  vm->run_size = size;
  EQ(vmm_vcpu_fd(vm, 0), -ENOENT);
  CHECK(vmm_vcpu_new(vm, 0, 0) >= 0);
  EQ(vmm_vcpu_new(vm, 0, 0), -EEXIST);
  EQ(vmm_vcpu_affinity(vm, 1, (uint16_t[]){0}, 1), -EINVAL);
  EQ(vmm_vcpu_affinity(vm, 0, (uint16_t[]){0}, 0), -EINVAL);
  fake_vm_end(vm);
}
