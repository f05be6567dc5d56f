/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C half without the core: a made-up vmm_api, and a one-vCPU VM made with raw
 * ioctls. `native_harness platform` needs no KVM; `native_harness kvm` runs tiny
 * guests. Prints "ok NAME", "skip NAME: why" or "FAIL ...".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch.h"

static int failures;
#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      printf("FAIL %s:%d: %s\n", __FILE__, __LINE__, #condition);              \
      failures++;                                                              \
    }                                                                          \
  } while (0)

/* --- a core made up ------------------------------------------------------ */

struct vmm_vm {
  int kvm, fd, vcpu[4];
  struct {
    int space, used;
    uint64_t base, len;
    vmm_io_fn fn;
    void *opaque;
  } region[16];
  uint32_t event;
  uint64_t now;
};

static int bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  for (int i = 0; i < 16; i++) {
    if (vm->region[i].used) continue;
    vm->region[i].space = space, vm->region[i].base = base, vm->region[i].len = len;
    vm->region[i].fn = fn, vm->region[i].opaque = opaque, vm->region[i].used = 1;
    return 0;
  }
  return -ENOSPC;
}
static int bus_del(vmm_vm *vm, int space, uint64_t base) {
  for (int i = 0; i < 16; i++)
    if (vm->region[i].used && vm->region[i].space == space && vm->region[i].base == base) {
      vm->region[i].used = 0;
      return 0;
    }
  return -ENOENT;
}
static uint64_t io(vmm_vm *vm, int space, uint64_t at, uint32_t size, int is_write, uint64_t value) {
  uint8_t data[8];
  memset(data, 0xff, sizeof(data));
  if (is_write) memcpy(data, &value, size);
  for (int i = 0; i < 16; i++)
    if (vm->region[i].used && vm->region[i].space == space && at >= vm->region[i].base &&
        at + size <= vm->region[i].base + vm->region[i].len)
      vm->region[i].fn(vm->region[i].opaque, at - vm->region[i].base, data, size, is_write);
  uint64_t out = 0;
  memcpy(&out, data, size);
  return out;
}
static void post_event(vmm_vm *vm, uint32_t kind, uint64_t arg) {
  (void)arg;
  vm->event = kind;
}
static vmm_vm the_vm = {.kvm = -1, .fd = -1, .vcpu = {-1, -1, -1, -1}};
static uint64_t now_ns(void) { return the_vm.now; }
static int kvm_fd(vmm_vm *vm) { return vm->kvm; }
static int vm_fd(vmm_vm *vm) { return vm->fd; }
static int vcpu_fd(vmm_vm *vm, unsigned i) { return vm->vcpu[i]; }

static const struct vmm_api api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof(api),
    .bus_add = bus_add, .bus_del = bus_del,
    .post_event = post_event, .now_ns = now_ns, .kvm_fd = kvm_fd, .vm_fd = vm_fd, .vcpu_fd = vcpu_fd,
};

static uint64_t in(uint16_t port, uint32_t size) { return io(&the_vm, VMM_PIO, port, size, 0, 0); }
static void out(uint16_t port, uint64_t v) { io(&the_vm, VMM_PIO, port, 1, 1, v); }
static uint32_t event(void) {
  uint32_t e = the_vm.event;
  the_vm.event = 0;
  return e;
}
static int cmos(int reg) {
  out(0x70, (uint64_t)reg);
  return (int)in(0x71, 1);
}
static void cmos_set(int reg, int v) {
  out(0x70, (uint64_t)reg);
  out(0x71, (uint64_t)v);
}

static void test_platform(void) {
  const struct arch_platform where = {.sleep_port = 0x600,
                                      .reset_port = 0x600, .pm_timer_port = 0x608, .rtc_port = 0x70, .i8042 = 1,
                                      .low_ram = 512u << 20, .high_ram = 5ull << 30};
  arch_t *a = arch_new(&api, &the_vm);
  CHECK(a);
  CHECK(arch_realize(a, &where) == 0);

  CHECK(in(0x61, 1) == 0x20 && in(0x64, 1) == 0);
  out(0x64, 0xd1);
  CHECK(event() == 0);
  out(0x64, 0xfe);
  CHECK(event() == VMM_EVENT_RESET);
  out(0x600, 0x20);
  CHECK(event() == 0);
  out(0x600, 5 << 2 | 1 << 5);
  CHECK(event() == VMM_EVENT_SHUTDOWN);
  out(0x600, 1);
  CHECK(event() == VMM_EVENT_RESET);
  CHECK(in(0x600, 1) == 0);

  the_vm.now = 1000000000;
  CHECK(in(0x608, 4) == 3579545 && in(0x609, 1) == (3579545 >> 8 & 0xff) && in(0x60a, 2) == 3579545 >> 16);
  the_vm.now = 1200ull * 1000000000; /* wraps at 2^32 ticks, 1199.9 s */
  CHECK(in(0x608, 4) == (uint32_t)(1200ull * 3579545));

  /* The clock: BCD and 24 hours at first, no update in progress, battery good. */
  CHECK(!(cmos(0xa) & 0x80) && cmos(0xb) == 2 && cmos(0xd) == 0x80 && cmos(0xc) == 0);
  time_t t0 = time(NULL);
  struct tm tm;
  gmtime_r(&t0, &tm);
  int year = tm.tm_year + 1900;
  CHECK(cmos(0x32) == 0x20 && (cmos(9) == (year % 100 / 10 << 4 | year % 10)));
  CHECK(cmos(0x34) + 256 * cmos(0x35) == (512 - 16) * 16 && cmos(0x5b) + 256 * cmos(0x5c) == 5 * 16384 % 65536);
  cmos_set(0xb, 0x86); /* SET, binary, 24 hours */
  cmos_set(0x32, 20), cmos_set(9, 33), cmos_set(8, 12), cmos_set(7, 31);
  cmos_set(4, 23), cmos_set(2, 58), cmos_set(0, 0);
  cmos_set(0xb, 0x06);
  CHECK(cmos(9) == 33 && cmos(8) == 12 && cmos(7) == 31 && cmos(4) == 23 && cmos(6) == 7 /* a Saturday */);
  cmos_set(0xb, 0x04); /* 12 hours */
  CHECK(cmos(4) == (0x80 | 11));
  cmos_set(0xb, 0x02);
  CHECK(cmos(4) == 0x23 && cmos(9) == 0x33);
  CHECK(io(&the_vm, VMM_PIO, 0x70, 2, 1, 0x550e) == 0x550e && cmos(0xe) == 0x55); /* one wide write */

  /* State goes to another machine and the timer goes on from where it stood. */
  uint8_t saved[512];
  uint32_t ticks = (uint32_t)in(0x608, 4);
  int64_t n = arch_save_platform(a, saved, sizeof(saved));
  CHECK(n > 0 && arch_save_platform(a, saved, (size_t)n - 1) == -ENOBUFS);
  arch_unrealize(a);
  for (int i = 0; i < 16; i++) CHECK(!the_vm.region[i].used);
  CHECK(in(0x61, 1) == 0xff);
  arch_free(a);
  the_vm.now = 77;
  a = arch_new(&api, &the_vm);
  CHECK(arch_realize(a, &where) == 0 && arch_restore_platform(a, saved, (size_t)n) == 0);
  CHECK(cmos(9) == 0x33 && cmos(0xe) == 0x55 && (uint32_t)in(0x608, 4) - ticks + 1 <= 2);
  CHECK(arch_restore_platform(a, saved, 3) == -EINVAL);

  /* A hostile guest: every width, offset and value at each register. */
  for (int i = 0; i < 16; i++) {
    if (!the_vm.region[i].used) continue;
    for (uint32_t size = 1; size <= 8 && size <= the_vm.region[i].len; size *= 2)
      for (uint64_t at = 0; at + size <= the_vm.region[i].len; at++)
        for (unsigned v = 0; v < 65536; v += 255) {
          io(&the_vm, the_vm.region[i].space, the_vm.region[i].base + at, size, 1, v * 0x10001ull);
          io(&the_vm, the_vm.region[i].space, the_vm.region[i].base + at, size, 0, 0);
        }
  }
  for (int reg = 0; reg < 256; reg++)
    for (int v = 0; v < 256; v += 5) cmos_set(reg, v), cmos(reg);
  arch_free(a);
  printf("ok platform\n");
}

/* --- on KVM ---------------------------------------------------------------- */

#define RAM_SIZE (2u << 20)
static uint8_t *ram;
static struct kvm_run *run;

static int make_vm(arch_t **a, uint32_t apic_id) {
  the_vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (the_vm.kvm < 0) return -errno;
  the_vm.fd = ioctl(the_vm.kvm, KVM_CREATE_VM, 0);
  if (the_vm.fd < 0) return -errno;
  ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct kvm_userspace_memory_region slot = {.memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)ram};
  if (ioctl(the_vm.fd, KVM_SET_USER_MEMORY_REGION, &slot)) return -errno;
  *a = arch_new(&api, &the_vm);
  int r = arch_create(*a, 0xf8000000, 0xf8003000, 0);
  if (r < 0) return r;
  the_vm.vcpu[0] = ioctl(the_vm.fd, KVM_CREATE_VCPU, (unsigned long)apic_id);
  run = mmap(NULL, (size_t)ioctl(the_vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
             the_vm.vcpu[0], 0);
  return 0;
}

/* cpuid with eax, ecx from 0x1000, results at 0x1010; then MSR number at 0x1008 to 0x1020; then out 0x80. */
static const uint8_t guest64[] = {
    0x8b, 0x04, 0x25, 0x00, 0x10, 0, 0, /* mov eax,[0x1000] */
    0x8b, 0x0c, 0x25, 0x04, 0x10, 0, 0, /* mov ecx,[0x1004] */
    0x0f, 0xa2,                         /* cpuid */
    0x89, 0x04, 0x25, 0x10, 0x10, 0, 0, /* mov [0x1010],eax */
    0x89, 0x1c, 0x25, 0x14, 0x10, 0, 0, /* mov [0x1014],ebx */
    0x89, 0x0c, 0x25, 0x18, 0x10, 0, 0, /* mov [0x1018],ecx */
    0x89, 0x14, 0x25, 0x1c, 0x10, 0, 0, /* mov [0x101c],edx */
    0x8b, 0x0c, 0x25, 0x08, 0x10, 0, 0, /* mov ecx,[0x1008] */
    0x0f, 0x32,                         /* rdmsr */
    0x89, 0x04, 0x25, 0x20, 0x10, 0, 0, /* mov [0x1020],eax */
    0x48, 0x89, 0x34, 0x25, 0x28, 0x10, 0, 0, /* mov [0x1028],rsi */
    0xe6, 0x80,                         /* out 0x80,al */
    0xf4,
};

static void entry64(struct arch_entry *e) {
  const struct arch_segment code = {0, 0xffffffff, 0x10, 0xa09b}, data = {0, 0xffffffff, 0x18, 0xc093};
  memset(e, 0, sizeof(*e));
  e->cs = code;
  e->ds = e->es = e->fs = e->gs = e->ss = data;
  e->tr = (struct arch_segment){0, 0x67, 8, 0x8b};
  e->rip = 0x2000, e->rsp = 0x8ff0, e->rsi = 0x7000, e->rflags = 2;
  e->cr0 = 0x80000011, e->cr3 = 0xa000, e->cr4 = 0x20, e->efer = 0x500;
  e->gdt_base = 0x500, e->gdt_limit = 31, e->idt_base = 0x520, e->idt_limit = 7;
  uint64_t gdt[4] = {0, 0x8b0000000067, 0xaf9b000000ffff, 0xcf93000000ffff};
  memcpy(ram + 0x500, gdt, sizeof(gdt));
  uint64_t pml4 = 0xb003, pdpt = 0xc003, pde = 0x83;
  memcpy(ram + 0xa000, &pml4, 8), memcpy(ram + 0xb000, &pdpt, 8), memcpy(ram + 0xc000, &pde, 8);
  memcpy(ram + 0x2000, guest64, sizeof(guest64));
}

static int guest(arch_t *a, uint32_t leaf, uint32_t index, uint32_t msr, uint32_t result[4], uint32_t *value) {
  struct arch_entry e;
  entry64(&e);
  uint32_t args[3] = {leaf, index, msr};
  memcpy(ram + 0x1000, args, sizeof(args));
  if (arch_set_entry(a, the_vm.vcpu[0], &e) < 0) return -1;
  if (ioctl(the_vm.vcpu[0], KVM_RUN, 0) < 0) return -2;
  if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80) return (int)run->exit_reason + 1000;
  memcpy(result, ram + 0x1010, 16);
  memcpy(value, ram + 0x1020, 4);
  uint64_t rsi;
  memcpy(&rsi, ram + 0x1028, 8);
  return rsi == 0x7000 ? 0 : -3;
}

static uint64_t guest_tsc(void) {
  struct {
    struct kvm_msrs head;
    struct kvm_msr_entry tsc;
  } get = {.head = {.nmsrs = 1}, .tsc = {.index = 0x10}};
  CHECK(ioctl(the_vm.vcpu[0], KVM_GET_MSRS, &get) == 1);
  return get.tsc.data;
}

static uint64_t kvmclock(void) {
  struct kvm_clock_data get = {0};
  CHECK(ioctl(the_vm.fd, KVM_GET_CLOCK, &get) == 0);
  return get.clock;
}

/* A KVM without hardware behind it takes an offset and forgets it: its guests read the host's TSC. */
static int keeps_tsc_offsets(int fd) {
  uint64_t offset = 0, moved, seen;
  struct kvm_device_attr attr = {.addr = (uintptr_t)&offset};
  if (ioctl(fd, KVM_GET_DEVICE_ATTR, &attr)) return 0;
  moved = offset - 1000;
  attr.addr = (uintptr_t)&moved;
  CHECK(ioctl(fd, KVM_SET_DEVICE_ATTR, &attr) == 0);
  attr.addr = (uintptr_t)&seen;
  CHECK(ioctl(fd, KVM_GET_DEVICE_ATTR, &attr) == 0);
  return seen == moved;
}

/* A pause of 300 ms that the guest's clocks do not see. */
static void test_clock(arch_t *a) {
  const struct arch_platform where = {.pm_timer_port = 0x608};
  int fd = the_vm.vcpu[0];
  uint64_t khz = (uint64_t)ioctl(fd, KVM_GET_TSC_KHZ, NULL);
  int with_tsc = keeps_tsc_offsets(fd);
  CHECK(arch_realize(a, &where) == 0);
  CHECK(arch_clock_start(a, &fd, 1) == 0); /* they did not stand */
  the_vm.now = 5000000000;
  uint64_t ns = kvmclock(), tsc = guest_tsc(), pm = in(0x608, 4);
  CHECK(arch_clock_stop(a) == 0);
  usleep(300000);
  the_vm.now += 300000000;
  CHECK(arch_clock_start(a, &fd, 1) == 0);
  CHECK(in(0x608, 4) == pm);
  uint64_t later = guest_tsc() - tsc, later_ns = kvmclock() - ns;
  CHECK(later_ns < 200000000 && (!with_tsc || later * 1000000 / khz < 200000000));
  the_vm.now += 1000000000;
  CHECK(in(0x608, 4) == (uint32_t)pm + 3579545);
  usleep(300000);
  CHECK(kvmclock() - ns >= 300000000 && (guest_tsc() - tsc) * 1000000 / khz >= 299000000); /* and they go on */
  arch_unrealize(a);
}

static void test_kvm(void) {
  const struct arch_cpu cpu = {.apic_id = 1, .threads = 2, .cores = 2, .dies = 1, .packages = 1, .phys_bits = 46};
  struct arch_cpu wrong = cpu;
  arch_t *a = NULL;
  uint32_t r[4], value;
  int rc = make_vm(&a, 1);
  if (rc == -ENOENT || rc == -EACCES) {
    printf("skip kvm: no usable /dev/kvm (%s)\n", strerror(-rc));
    return;
  }
  CHECK(rc == 0);
  int fd = the_vm.vcpu[0];
  wrong.apic_id = 2;
  CHECK(arch_init_vcpu(a, fd, &wrong) == -EINVAL && strstr(arch_failed(a), "APIC ID"));
  rc = arch_init_vcpu(a, fd, &cpu);
  if (rc < 0) printf("FAIL init_vcpu: %s: %s\n", arch_failed(a), strerror(-rc)), failures++;

  /* The guest sees its topology, clock leaf and MTRR default type. */
  struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE}; /* an application processor, strictly */
  CHECK(ioctl(fd, KVM_SET_MP_STATE, &runnable) == 0);
  rc = guest(a, 0xb, 1, 0x2ff, r, &value);
  if (rc) {
    printf("FAIL guest: %d (%s)\n", rc, arch_failed(a));
    failures++;
    return;
  }
  CHECK(r[0] == 2 && r[1] == 4 && r[2] == (2 << 8 | 1) && r[3] == 1 && (value & 0xfff) == 0x806);
  CHECK(guest(a, 1, 0, 0x1a0, r, &value) == 0 && r[1] >> 24 == 1 && (r[2] & 1u << 31) && (value & 1));
  CHECK(guest(a, 0x40000000, 0, 0x1b, r, &value) == 0 && r[0] == 0x40000010);
  int khz = ioctl(fd, KVM_GET_TSC_KHZ, NULL);
  CHECK(guest(a, 0x40000010, 0, 0x277, r, &value) == 0 && (khz <= 0 || (r[0] == (uint32_t)khz && r[1] == 1000000)));

  /* State survives a round trip: registers, special registers, MSRs, LAPIC. */
  static uint8_t state[1 << 16], again[1 << 16];
  struct kvm_regs regs;
  CHECK(ioctl(fd, KVM_GET_REGS, &regs) == 0);
  int64_t n = arch_save_vcpu(a, fd, state, sizeof(state));
  if (n < 0) printf("FAIL save: %s: %s\n", arch_failed(a), strerror((int)-n)), failures++;
  CHECK(arch_save_vcpu(a, fd, again, 100) == -ENOBUFS);

  /* Another guest run in between, so that there is something to bring back. */
  struct kvm_regs fresh;
  memset(&fresh, 0, sizeof(fresh));
  fresh.rflags = 2, fresh.r15 = 0x1234;
  CHECK(guest(a, 0xb, 0, 0x277, r, &value) == 0 && r[1] == 2 && value == 0x00070406);
  CHECK(ioctl(fd, KVM_SET_REGS, &fresh) == 0);

  rc = n > 0 ? arch_restore_vcpu(a, fd, state, (size_t)n) : -1;
  if (rc < 0) printf("FAIL restore: %s: %s\n", arch_failed(a), strerror(-rc)), failures++;
  CHECK(ioctl(fd, KVM_GET_REGS, &fresh) == 0 && !memcmp(&fresh, &regs, sizeof(regs)));
  /* Any damage is refused or harmless, never more. */
  for (int64_t cut = 0; cut < n; cut += 97) arch_restore_vcpu(a, fd, state, (size_t)cut);
  CHECK(arch_restore_vcpu(a, fd, state, 7) == -EINVAL);
  state[0] ^= 1;
  CHECK(arch_restore_vcpu(a, fd, state, (size_t)n) == -EINVAL);
  test_clock(a);
  arch_free(a);
  printf("ok kvm\n");
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  if (argc == 2 && !strcmp(argv[1], "kvm"))
    test_kvm();
  else
    test_platform();
  return failures != 0;
}
