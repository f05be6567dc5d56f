/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmamba.h - what Arm's PrimeCells have in common: 4 KiB of 32-bit registers on an APB (ARM IHI 0024), the last eight
 * of which say what it is (technical reference manuals of PL011, PL031, PL061, "Identification registers"). Header only.
 */
#ifndef VMMAMBA_H
#define VMMAMBA_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "vmmcore.h"

#define VMM_AMBA_SIZE 0x1000u /* bytes of registers */

/* `reg` is a multiple of 4 below VMM_AMBA_SIZE. */
typedef uint32_t (*vmm_amba_read_fn)(void *chip, uint32_t reg);
typedef void (*vmm_amba_write_fn)(void *chip, uint32_t reg, uint32_t value);

/* An access of any size and alignment as whole registers: APB has no byte lanes. A narrow write is one of the value
 * with zeros above it, and only a register's first byte is its address. */
static inline void vmm_amba_access(void *chip, vmm_amba_read_fn read, vmm_amba_write_fn write, uint64_t offset,
                                   void *data, uint32_t size, int is_write) {
  uint8_t *bytes = data;
  while (size) {
    uint32_t at = offset & 3, n = size < 4 - at ? size : 4 - at, reg = (uint32_t)offset & (VMM_AMBA_SIZE - 4);
    if (!is_write) vmm_store(bytes, n, read(chip, reg) >> 8 * at);
    else if (!at) write(chip, reg, (uint32_t)vmm_load(bytes, n));
    offset += n;
    bytes += n;
    size -= n;
  }
}

/* PeriphID0–3 and PCellID0–3, at 0xfe0–0xffc, of Arm's (designer 0x41) part number `part`; 0 below. */
static inline uint32_t vmm_amba_id(uint32_t reg, uint32_t part, uint32_t revision) {
  uint8_t id[] = {part & 0xff, (uint8_t)(0x10 | part >> 8), (uint8_t)(revision << 4 | 0x4), 0x00,
                  0x0d, 0xf0, 0x05, 0xb1};
  return reg < 0xfe0 ? 0 : id[(reg - 0xfe0) / 4 % 8];
}

/* --- the place in the machine of one that has a level interrupt and a timer of the host --- */

struct vmm_amba {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_loop *loop; /* has timer_fd; NULL: not yet */
  uint64_t address;
  uint32_t gsi;
  int timer_fd;
  bool mapped;
  vmm_amba_read_fn read;
  vmm_amba_write_fn write;
  void (*tick)(void *chip);
  void *chip;

  pthread_mutex_t lock; /* guards the chip and all below; held by whoever calls read, write and tick */
  bool paused;
  bool level; /* of the interrupt line */
};

/* The interrupt line's level. Lock held. */
static inline void vmm_amba_line(struct vmm_amba *a, bool level) {
  if (level == a->level) return;
  a->level = level;
  a->api->irq_level(a->vm, a->gsi, 0, level);
}

/* vCPU threads. */
static inline void vmm_amba_on_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_amba *a = opaque;
  pthread_mutex_lock(&a->lock);
  vmm_amba_access(a->chip, a->read, a->write, offset, data, size, is_write);
  pthread_mutex_unlock(&a->lock);
}

/* Loop thread. */
static inline void vmm_amba_on_timer(void *opaque, int fd, uint32_t events) {
  struct vmm_amba *a = opaque;
  uint64_t ticks;
  (void)events;
  pthread_mutex_lock(&a->lock);
  if (read(fd, &ticks, sizeof ticks) > 0) a->tick(a->chip);
  pthread_mutex_unlock(&a->lock);
}

/* Take the place that api, vm, address, gsi and the four after `mapped` say, paused, with a timer of `clock`:
 * 0 or -errno. vmm_amba_close() afterwards, whatever this returns. */
static inline int vmm_amba_open(struct vmm_amba *a, int clock) {
  a->paused = true;
  pthread_mutex_init(&a->lock, NULL);
  a->timer_fd = timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC);
  if (a->timer_fd < 0) return -errno;
  vmm_loop *loop = a->api->loop(a->vm, 0);
  if (!loop) return -ENOMEM;
  int status = a->api->loop_add(loop, a->timer_fd, EPOLLIN, vmm_amba_on_timer, a);
  if (status < 0) return status;
  a->loop = loop;
  status = a->api->bus_add(a->vm, VMM_MMIO, a->address, VMM_AMBA_SIZE, vmm_amba_on_io, a);
  a->mapped = status >= 0;
  return status;
}

/* From any thread but a vCPU's or the loop's. */
static inline void vmm_amba_close(struct vmm_amba *a) {
  if (a->mapped) a->api->bus_del(a->vm, VMM_MMIO, a->address);
  if (a->loop) a->api->loop_del(a->loop, a->timer_fd);
  if (a->timer_fd >= 0) close(a->timer_fd);
  vmm_amba_line(a, false);
  pthread_mutex_destroy(&a->lock);
}

#endif
