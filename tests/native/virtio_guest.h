/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio device that echoes on loops' threads, the main thread that serves it, and a driver's accesses. */
#ifndef VIRTIO_GUEST_H
#define VIRTIO_GUEST_H

#include "pci_guest.h"
#include "virtio.h"

enum { S_ACK = 1, S_DRIVER = 2, S_OK = 4, S_FEATURES = 8, S_RESET = 64, S_FAILED = 128, S_LIVE = 15 };
enum { /* common configuration (virtio 1.2 §4.1.4.3) */
  R_DEVICE_SELECT = 0, R_DEVICE_FEATURE = 4, R_DRIVER_SELECT = 8, R_DRIVER_FEATURE = 12, R_CONFIG_VECTOR = 16,
  R_NUM_QUEUES = 18, R_STATUS = 20, R_GENERATION = 21, R_SELECT = 22, R_SIZE = 24, R_VECTOR = 26, R_ENABLE = 28,
  R_NOTIFY_OFF = 30, R_DESC = 32, R_DRIVER = 40, R_DEVICE = 48, R_NOTIFY_DATA = 56, R_RESET = 58, R_END = 60,
};
enum { QUEUES = 4, SLOT = 3, V_TOKEN = 7, NO_VECTOR = 0xffff };
enum { V_RAM = 0x80000, V_RING = 0x10000, V_DATA = 0x60000 };
#define V1 (1ull << VMM_F_VERSION_1)
#define RING_RESET (1ull << VMM_F_RING_RESET)
#define OFFERED (V1 | RING_RESET | 1ull << VMM_F_PACKED | 1ull << VMM_F_EVENT_IDX | 1ull << VMM_F_INDIRECT | 7)
#define MSI_ADDR 0xfee00000u

struct vdev {
  vmm_vm *vm;
  vmm_pci_dev *pci;
  vmm_virtio *v;
  uint64_t bar;
  uint32_t window; /* config offset of PCI_CFG */
  bool running, no_handlers;
  unsigned starts, stops, failures, config_writes;
  _Atomic unsigned handled[QUEUES], echoed;
  uint16_t avail[QUEUES];
};

static const uint16_t v_sizes[QUEUES] = {16, 8, 256, 4};

static inline void v_echo(void *opaque, vmm_queue *q) {
  struct vdev *d = opaque;
  struct vmm_chain chain;
  struct iovec iov[300];
  d->handled[q->index]++;
  do
    while (vmm_queue_pop(q, &chain, iov, 300) > 0) {
      uint32_t n = 0;
      if (chain.n_out && chain.n_in) {
        n = (uint32_t)(iov[0].iov_len < iov[chain.n_out].iov_len ? iov[0].iov_len : iov[chain.n_out].iov_len);
        memcpy(iov[chain.n_out].iov_base, iov[0].iov_base, n);
      }
      vmm_queue_push(q, &chain, iov, n);
      d->echoed++;
      vmm_queue_flush(q);
    }
  while (vmm_queue_wait(q));
}

/* --- the main thread, as VirtioDevice has it --- */

static inline void v_halt(struct vdev *d) {
  if (!d->running) return;
  vmm_virtio_quiesce(d->v);
  d->running = false;
  d->stops++;
}

static inline void v_go(struct vdev *d) {
  if (d->running || vmm_virtio_start(d->v)) return;
  d->running = true;
  d->starts++;
  for (unsigned i = 0; i < QUEUES; i++) {
    vmm_queue *q = vmm_virtio_queue(d->v, i);
    if (vmm_queue_size(q) && !d->no_handlers) EQ(vmm_queue_handle(q, v_echo, d), 0);
  }
}

static inline void v_poll(struct vdev *d) {
  int want = vmm_virtio_want(d->v);
  if (want & VMM_WANT_FAILED) {
    d->failures++;
    v_halt(d);
  }
  if (want & VMM_WANT_HALT) {
    v_halt(d);
    vmm_virtio_settle(d->v);
  }
  if (want & (VMM_WANT_HALT | VMM_WANT_START)) v_go(d);
  if (want & VMM_WANT_CONFIG) d->config_writes++;
}

/* Take the events that are there; how many were the device's. */
static inline unsigned v_serve(struct vdev *d) {
  struct vmm_event e;
  unsigned n = 0;
  while (vmm_event_next(d->vm, &e)) {
    EQ(e.kind, VMM_EVENT_DEVICE);
    EQ(e.arg, V_TOKEN);
    v_poll(d);
    n++;
  }
  return n;
}

/* --- the device --- */

static inline struct vdev *v_new(void) {
  struct vdev *d = calloc(1, sizeof *d);
  CHECK(d);
  d->vm = pci_vm();
  EQ(vmm_mem_add(d->vm, 0, V_RAM, 0, 0), 0);
  d->pci = pci_dev(d->vm, 0x1040 + 63);
  d->v = vmm_virtio_new(d->vm, d->pci, V_TOKEN, QUEUES, v_sizes, OFFERED, 0, 2, 1);
  CHECK(d->v);
  uint8_t config[8] = {1, 2, 3, 4, 5, 6, 7, 8}, mask[8] = {0, 0, 0, 0, 0xff, 0x0f, 0, 0};
  EQ(vmm_virtio_config_init(d->v, config, 8, mask, 8), 0);
  vmm_virtio_config_watch(d->v);
  EQ(vmm_virtio_require(d->v, 1, 1), 0);
  EQ(vmm_pci_add_bar(d->pci, 0, VMM_VIRTIO_BAR, VMM_BAR_64, vmm_virtio_io, d->v), 0);
  uint8_t body[18] = {20, 5}, open[18] = {0, 0, 0xff, 0, 0, 0};
  memset(open + 6, 0xff, 12);
  int cap = vmm_pci_add_cap(d->pci, 9, body, open, sizeof body);
  CHECK(cap > 0);
  d->window = (uint32_t)cap;
  EQ(vmm_pci_add_msix(d->pci, 0, VMM_VIRTIO_MSIX, VMM_VIRTIO_PBA, QUEUES + 1), 0);
  vmm_virtio_place(d->v, QUEUES + 1, d->window);
  vmm_pci_set_intx(d->pci, 9);
  d->bar = HIGH;
  EQ(vmm_pci_bar_first(d->pci, 0, HIGH), 0);
  EQ(vmm_pci_attach(d->pci, 0, SLOT), 0);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON);
  return d;
}

static inline void v_end(struct vdev *d) {
  vmm_pci_detach(d->pci);
  v_halt(d);
  vmm_virtio_free(d->v);
  vmm_pci_free(d->pci);
  EQ(fake.n_ioeventfds, 0);
  fake_vm_end(d->vm);
  free(d);
}

/* --- a driver --- */

static inline uint64_t reg(struct vdev *d, unsigned at, unsigned size) {
  return rd(d->vm, VMM_MMIO, d->bar + at, size);
}

static inline void setreg(struct vdev *d, unsigned at, unsigned size, uint64_t value) {
  wr(d->vm, VMM_MMIO, d->bar + at, size, value);
}

static inline unsigned status(struct vdev *d) {
  return (unsigned)reg(d, R_STATUS, 1);
}

static inline void set_status(struct vdev *d, unsigned value) {
  setreg(d, R_STATUS, 1, value);
}

static inline void features(struct vdev *d, uint64_t f) {
  for (unsigned i = 0; i < 2; i++) {
    setreg(d, R_DRIVER_SELECT, 4, i);
    setreg(d, R_DRIVER_FEATURE, 4, f >> 32 * i & 0xffffffff);
  }
}

/* Up to FEATURES_OK; whether the device took it. */
static inline bool negotiate(struct vdev *d, uint64_t f) {
  set_status(d, S_ACK);
  set_status(d, S_ACK | S_DRIVER);
  features(d, f);
  set_status(d, S_ACK | S_DRIVER | S_FEATURES);
  return status(d) & S_FEATURES;
}

static inline uint64_t v_ring(unsigned i) {
  return V_RING + 0x10000ull * i;
}

/* Desc at the ring's start, avail at +0x8000, used at +0xc000. */
static inline void queue_up(struct vdev *d, unsigned i) {
  uint64_t ring = v_ring(i);
  memset(vmm_mem(d->vm, ring, 0x1000), 0, 0x1000);
  memset(vmm_mem(d->vm, ring + 0x8000, 0x1000), 0, 0x1000);
  memset(vmm_mem(d->vm, ring + 0xc000, 0x1000), 0, 0x1000);
  d->avail[i] = 0;
  setreg(d, R_SELECT, 2, i);
  setreg(d, R_DESC, 4, ring), setreg(d, R_DESC + 4, 4, 0);
  setreg(d, R_DRIVER, 4, ring + 0x8000), setreg(d, R_DRIVER + 4, 4, 0);
  setreg(d, R_DEVICE, 8, ring + 0xc000);
  setreg(d, R_ENABLE, 2, 1);
}

static inline void up(struct vdev *d, uint64_t f, unsigned queues) {
  CHECK(negotiate(d, f));
  for (unsigned i = 0; i < QUEUES; i++)
    if (queues >> i & 1) queue_up(d, i);
  set_status(d, S_LIVE);
  v_serve(d);
  CHECK(d->running);
}

static inline void down(struct vdev *d) {
  set_status(d, 0);
  v_serve(d);
  EQ(status(d), 0);
}

static inline void kick(struct vdev *d, unsigned i) {
  setreg(d, VMM_VIRTIO_NOTIFY + 4 * i, 2, i);
}

static inline uint16_t v_used(struct vdev *d, unsigned i) {
  return __atomic_load_n((uint16_t *)vmm_mem(d->vm, v_ring(i) + 0xc002, 2), __ATOMIC_ACQUIRE);
}

static inline void v_desc(struct vdev *d, unsigned i, unsigned n, uint64_t addr, uint32_t len, unsigned flags,
                          unsigned next) {
  uint8_t *p = vmm_mem(d->vm, v_ring(i) + 16 * n, 16);
  vmm_store(p, 8, addr), vmm_store(p + 8, 4, len), vmm_store(p + 12, 2, flags), vmm_store(p + 14, 2, next);
}

static inline void v_avail(struct vdev *d, unsigned i, uint16_t head, unsigned size) {
  vmm_store(vmm_mem(d->vm, v_ring(i) + 0x8004 + 2 * (d->avail[i] % size), 2), 2, head);
  __atomic_store_n((uint16_t *)vmm_mem(d->vm, v_ring(i) + 0x8002, 2), ++d->avail[i], __ATOMIC_SEQ_CST);
}

/* The queues that have an ioeventfd; no others than those of `queues` may. */
static inline unsigned doorbells(struct vdev *d, unsigned queues) {
  unsigned found = 0;
  for (unsigned i = 0; i < fake.n_ioeventfds; i++) {
    uint64_t n = (fake.ioeventfd[i].addr - d->bar - VMM_VIRTIO_NOTIFY) / 4;
    CHECK(n < QUEUES && queues >> n & 1 && fake.ioeventfd[i].len == 0);
    found |= 1u << n;
  }
  return found;
}

/* Let loops run until the condition holds; a test that waits in vain is ended by its runner. */
#define AWAIT(cond) \
  while (!(cond)) poll(NULL, 0, 1)

/* An echo of a byte through split queue i (features without EVENT_IDX). */
static inline void echo(struct vdev *d, unsigned i) {
  unsigned size = vmm_queue_size(vmm_virtio_queue(d->v, i));
  uint8_t *data = vmm_mem(d->vm, V_DATA + 0x100 * i, 2);
  uint16_t before = v_used(d, i);
  data[0] = (uint8_t)(0x40 + before), data[1] = 0;
  v_desc(d, i, 0, V_DATA + 0x100 * i, 1, 1, 1);
  v_desc(d, i, 1, V_DATA + 0x100 * i + 1, 1, 2, 0);
  v_avail(d, i, 0, size);
  kick(d, i);
  AWAIT(v_used(d, i) == (uint16_t)(before + 1));
  EQ(data[1], 0x40 + (uint8_t)before);
}

#endif
