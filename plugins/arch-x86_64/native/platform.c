/* SPDX-License-Identifier: Apache-2.0 */
/* The platform's few registers: reset, sleep, PM timer, clock. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "arch.h"

#define PM_TIMER_HZ 3579545u   /* ACPI 6.5 4.8.2.1 */
#define SLEEP_ENABLE (1u << 5) /* sleep control register, ACPI 6.5 4.8.3.7 */
#define SLEEP_S5 (5u << 2)

/* Port 0x64: the keyboard controller's "pulse the reset line", and nothing else of it. */
static void i8042_command(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  arch_t *a = opaque;
  (void)offset;
  if (!is_write) {
    vmm_store(data, size, 0);
  } else if ((vmm_load(data, 1) & 0xff) == 0xfe) {
    a->api->post_event(a->vm, VMM_EVENT_RESET, 0);
  }
}

/* Port 0x61 (NMI status and control): channel 2 of a timer that is not there has always run down. */
static void i8042_status(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)opaque, (void)offset;
  if (!is_write) vmm_store(data, size, 0x20);
}

/* Sleep control, sleep status and reset register in one byte. */
static void sleep_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  arch_t *a = opaque;
  (void)offset;
  if (!is_write) {
    vmm_store(data, size, 0);
    return;
  }
  uint64_t value = vmm_load(data, 1);
  if (value == 1) a->api->post_event(a->vm, VMM_EVENT_RESET, 0);
  if (value == (SLEEP_S5 | SLEEP_ENABLE)) a->api->post_event(a->vm, VMM_EVENT_SHUTDOWN, 0);
}

static uint32_t pm_timer(const arch_t *a) {
  uint64_t ns = a->api->now_ns() + (uint64_t)a->pm_timer_offset;
  return (uint32_t)(ns / 1000000000u * PM_TIMER_HZ + ns % 1000000000u * PM_TIMER_HZ / 1000000000u);
}

static void pm_timer_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  if (!is_write) vmm_store(data, size, pm_timer(opaque) >> (offset & 3) * 8);
}

static int add(arch_t *a, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  int r = a->api->bus_add(a->vm, space, base, len, fn, opaque);
  if (r < 0) a->failed = "bus_add";
  return r;
}

int arch_realize(arch_t *a, const struct arch_platform *p) {
  int r = 0;
  a->platform = *p;
  arch_rtc_init(&a->rtc, p->low_ram, p->high_ram);
  if (p->i8042) {
    if ((r = add(a, VMM_PIO, 0x61, 1, i8042_status, a)) < 0) return r;
    if ((r = add(a, VMM_PIO, 0x64, 1, i8042_command, a)) < 0) return r;
  }
  if (p->rtc_port && (r = add(a, VMM_PIO, p->rtc_port, 2, arch_rtc_io, &a->rtc)) < 0) return r;
  if (p->sleep_port && (r = add(a, VMM_PIO, p->sleep_port, 1, sleep_io, a)) < 0) return r;
  if (p->reset_port && p->reset_port != p->sleep_port &&
      (r = add(a, VMM_PIO, p->reset_port, 1, sleep_io, a)) < 0)
    return r;
  if (p->pm_timer_port && (r = add(a, VMM_PIO, p->pm_timer_port, 4, pm_timer_io, a)) < 0) return r;
  return 0;
}

/* Also after half an arch_realize(): deleting a region that is not there does nothing. */
void arch_unrealize(arch_t *a) {
  const struct arch_platform *p = &a->platform;
  if (p->i8042) {
    a->api->bus_del(a->vm, VMM_PIO, 0x61);
    a->api->bus_del(a->vm, VMM_PIO, 0x64);
  }
  if (p->rtc_port) a->api->bus_del(a->vm, VMM_PIO, p->rtc_port);
  if (p->sleep_port) a->api->bus_del(a->vm, VMM_PIO, p->sleep_port);
  if (p->reset_port && p->reset_port != p->sleep_port) a->api->bus_del(a->vm, VMM_PIO, p->reset_port);
  if (p->pm_timer_port) a->api->bus_del(a->vm, VMM_PIO, p->pm_timer_port);
  memset(&a->platform, 0, sizeof(a->platform));
}

/* Saved form: little endian as the host's, one version word first. */
struct saved_platform {
  uint32_t version, reserved;
  int64_t rtc_offset;
  uint32_t pm_timer;
  uint8_t rtc_index, pad[3];
  uint8_t cmos[128];
};

int64_t arch_save_platform(arch_t *a, uint8_t *out, size_t room) {
  struct saved_platform s;
  if (room < sizeof(s)) return -ENOBUFS;
  memset(&s, 0, sizeof(s));
  s.version = 1;
  s.pm_timer = pm_timer(a);
  pthread_mutex_lock(&a->rtc.lock);
  s.rtc_offset = a->rtc.offset;
  s.rtc_index = a->rtc.index;
  memcpy(s.cmos, a->rtc.ram, sizeof(s.cmos));
  pthread_mutex_unlock(&a->rtc.lock);
  memcpy(out, &s, sizeof(s));
  return sizeof(s);
}

int arch_restore_platform(arch_t *a, const uint8_t *data, size_t len) {
  struct saved_platform s;
  if (len != sizeof(s)) return -EINVAL;
  memcpy(&s, data, sizeof(s));
  if (s.version != 1 || s.rtc_index >= sizeof(s.cmos)) return -EINVAL;
  /* The timer goes on from where it stood: 2^32 ticks are 1199 s, so any offset below that will do. */
  a->pm_timer_offset = 0;
  uint32_t behind = s.pm_timer - pm_timer(a);
  a->pm_timer_offset = (int64_t)((uint64_t)behind * 1000000000u / PM_TIMER_HZ);
  pthread_mutex_lock(&a->rtc.lock);
  a->rtc.offset = s.rtc_offset;
  a->rtc.index = s.rtc_index;
  memcpy(a->rtc.ram, s.cmos, sizeof(s.cmos));
  pthread_mutex_unlock(&a->rtc.lock);
  return 0;
}
