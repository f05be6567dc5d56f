/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio transport under a guest that writes any register, config space, rings and BAR addresses in any order,
 * while the host serves, pauses, saves, restores and fails the device. All on one thread. After each step: what the
 * registers show fits together, only live queues have doorbells, and a device that runs was set up for it.
 */
#include "virtio_guest.h"
#include "input.h"

enum { MAX_STEPS = 200 };

static struct vdev *d;
static unsigned checked;

static int check_features(void *opaque, uint64_t f) {
  MUST(opaque == &checked);
  MUST(!(f & ~OFFERED) && f & V1 && (!(f & 2) || f & 1));
  checked++;
  return !(f & 4);
}

static void check(void) {
  uint64_t f = vmm_virtio_features(d->v);
  MUST(!(f & ~OFFERED));
  unsigned live = 0;
  for (unsigned i = 0; i < QUEUES; i++) {
    vmm_queue *q = vmm_virtio_queue(d->v, i);
    if (!vmm_queue_size(q)) continue;
    live++;
    MUST(f & V1 && !(f & 4));
    MUST(vmm_queue_size(q) <= v_sizes[i]);
    MUST(vmm_queue_features(q) == f);
  }
  if (vmm_pci_bar_base(d->pci, 0) == VMM_NO_ADDR)
    MUST(!fake.n_ioeventfds);
  else
    MUST(fake.n_ioeventfds == live);
  for (unsigned i = 0; i < fake.n_ioeventfds; i++)
    MUST(fake.ioeventfd[i].addr - vmm_pci_bar_base(d->pci, 0) - VMM_VIRTIO_NOTIFY < 4 * QUEUES);
}

static void check_registers(void) {
  uint64_t base = vmm_pci_bar_base(d->pci, 0);
  if (base == VMM_NO_ADDR) return;
  d->bar = base;
  unsigned s = status(d);
  if (s & S_OK) MUST(s & S_FEATURES);
  if (!(s & S_FEATURES)) MUST(!vmm_virtio_features(d->v));
  if (d->running) MUST(s & S_OK);
  MUST(reg(d, R_NUM_QUEUES, 2) == QUEUES);
  if (!s) MUST(!fake.n_ioeventfds || d->running);
}

static uint64_t value(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 8) {
  case 0:
    return kind >> 3;
  case 1:
    return 1;
  case 2:
    return V_RING + (uint64_t)(kind >> 3) * 0x1000;
  case 3:
    return V_RAM - (kind >> 3) * 4;
  case 4:
    return ~0ull >> (kind >> 3);
  case 5:
    return OFFERED >> (kind & 8 ? 32 : 0);
  default:
    return take(in, kind & 8 ? 8 : 2);
  }
}

static void access_to(struct input *in, uint64_t at) {
  unsigned kind = (unsigned)take(in, 1);
  unsigned size = 1u << (kind & 3);
  if (kind & 0x80)
    setreg(d, (unsigned)at, size, value(in));
  else
    (void)reg(d, (unsigned)at, size);
}

/* A write of the right width to a register that may be written. */
static void driver_write(struct input *in) {
  static const struct {
    uint8_t at, size;
  } registers[] = {{R_DEVICE_SELECT, 4}, {R_DRIVER_SELECT, 4}, {R_DRIVER_FEATURE, 4}, {R_CONFIG_VECTOR, 2},
                   {R_STATUS, 1}, {R_SELECT, 2}, {R_SIZE, 2}, {R_VECTOR, 2}, {R_ENABLE, 2}, {R_DESC, 8}, {R_DRIVER, 8},
                   {R_DEVICE, 8}, {R_RESET, 2}, {R_SELECT, 2}, {R_STATUS, 1}, {R_ENABLE, 2}};
  unsigned n = take(in, 1) % 16;
  setreg(d, registers[n].at, registers[n].size, value(in));
}

static void guest(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 16) {
  case 0:
  case 1:
  case 2:
    driver_write(in);
    break;
  case 3:
    access_to(in, take(in, 1) % (R_END + 8));
    break;
  case 4:
    access_to(in, take(in, 4) % VMM_VIRTIO_BAR);
    break;
  case 5:
    access_to(in, VMM_VIRTIO_ISR + (kind >> 6));
    break;
  case 6:
    access_to(in, VMM_VIRTIO_CONFIG + take(in, 1) % 16);
    break;
  case 7:
    kick(d, kind >> 5);
    break;
  case 8: /* MSI-X table and PBA */
    access_to(in, (kind & 0x80 ? VMM_VIRTIO_PBA : VMM_VIRTIO_MSIX) + take(in, 1) % (16 * QUEUES + 24));
    break;
  case 9: /* config space: BAR, command, MSI-X control, the window */
    setcfg(d->vm, SLOT, (uint32_t)take(in, 1), 1u << (kind >> 6 & 1 ? 2 : kind >> 7), (uint32_t)value(in));
    break;
  case 10: /* the window, well aimed */
    setcfg(d->vm, SLOT, d->window + 4, 1, kind >> 7);
    setcfg(d->vm, SLOT, d->window + 8, 4, kind & 0x20 ? (uint32_t)take(in, 4) : (uint32_t)take(in, 1));
    setcfg(d->vm, SLOT, d->window + 12, 4, kind & 0x40 ? (uint32_t)take(in, 4) : 1u << (kind >> 4 & 1));
    if (kind & 0x10) setcfg(d->vm, SLOT, d->window + 16, 4, (uint32_t)value(in));
    else (void)cfg(d->vm, SLOT, d->window + 16, 4);
    break;
  case 11: { /* decoding where it was */
    setcfg(d->vm, SLOT, BAR0, 4, 0);
    setcfg(d->vm, SLOT, BAR0 + 4, 4, HIGH >> 32);
    setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON | (kind & 0x80 ? 0x400 : 0));
    d->bar = HIGH;
    break;
  }
  case 12: { /* up to DRIVER_OK in one step */
    static const uint64_t sets[] = {V1, V1 | 1ull << VMM_F_PACKED, V1 | RING_RESET | 1ull << VMM_F_EVENT_IDX, OFFERED & ~4ull};
    if (!negotiate(d, sets[kind >> 6])) break;
    unsigned queues = (unsigned)take(in, 1);
    for (unsigned i = 0; i < QUEUES; i++)
      if (queues >> i & 1) queue_up(d, i);
    set_status(d, S_LIVE);
    break;
  }
  case 13: { /* rings */
    uint64_t at = v_ring(kind >> 6) + (take(in, 1) & 0x80 ? 0x8000 : 0) + take(in, 1);
    vmm_store(vmm_mem(d->vm, at, 8), 2, value(in));
    break;
  }
  case 14: { /* a request as a split ring has it */
    unsigned i = kind >> 6;
    v_desc(d, i, 0, V_DATA + take(in, 1), (uint32_t)value(in), (unsigned)take(in, 1), (unsigned)take(in, 1) % 8);
    uint16_t idx = (uint16_t)vmm_load(vmm_mem(d->vm, v_ring(i) + 0x8002, 2), 2);
    vmm_store(vmm_mem(d->vm, v_ring(i) + 0x8002, 2), 2, idx + 1u);
    kick(d, i);
    break;
  }
  default:
    set_status(d, kind >> 5 ? kind >> 4 : 0);
  }
}

/* The device's threads, had there been any. */
static void work(unsigned i) {
  vmm_queue *q = vmm_virtio_queue(d->v, i);
  struct iovec iov[300];
  struct vmm_chain c;
  if (!d->running) return;
  for (unsigned n = 0; n < 20 && vmm_queue_pop(q, &c, iov, 300) > 0; n++) {
    for (uint32_t k = 0; k < c.n_out + c.n_in; k++) {
      const uint8_t *base = vmm_mem(d->vm, 0, V_RAM), *p = iov[k].iov_base;
      MUST(p >= base && (uint64_t)(p - base) < V_RAM && iov[k].iov_len <= V_RAM - (uint64_t)(p - base));
    }
    vmm_queue_push(q, &c, iov, (uint32_t)c.in_len);
  }
  vmm_queue_flush(q);
  vmm_queue_wait(q);
  int fd = vmm_queue_kick_fd(q);
  eventfd_t count;
  if (fd >= 0) (void)!eventfd_read(fd, &count);
}

static void host(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 8) {
  case 0:
  case 1:
  case 2:
    v_serve(d);
    break;
  case 3:
  case 4:
    work(kind >> 6);
    break;
  case 5: { /* pause, move to another device, go on */
    v_halt(d);
    size_t len = vmm_virtio_state_size(d->v);
    uint8_t *state = malloc(len);
    MUST(state);
    vmm_virtio_save(d->v, state);
    for (unsigned i = 0; i < (kind >> 6); i++) state[take(in, 2) % len] = (uint8_t)take(in, 1);
    void *memory = malloc(V_RAM);
    MUST(memory);
    memcpy(memory, vmm_mem(d->vm, 0, V_RAM), V_RAM);
    v_end(d);
    d = v_new();
    d->no_handlers = true;
    vmm_set_log_level(d->vm, 0);
    vmm_virtio_check(d->v, check_features, &checked);
    memcpy(vmm_mem(d->vm, 0, V_RAM), memory, V_RAM);
    bool taken = !vmm_virtio_restore(d->v, state, len);
    free(memory);
    free(state);
    if (!taken) { /* the machine would not run; here it goes on with a reset */
      set_status(d, 0);
      v_poll(d);
    }
    break;
  }
  case 6: {
    uint8_t bytes[8] = {0};
    uint32_t at = (uint32_t)take(in, 1), len = kind >> 5;
    int r = vmm_virtio_config_set(d->v, at, bytes, len, kind >> 4 & 1);
    MUST((r == 0) == (at <= 8 && len <= 8 - at));
    break;
  }
  default:
    if (kind & 0x80) {
      v_halt(d); /* pause and resume */
      v_go(d);
    } else {
      vmm_virtio_fail(d->v, "told to");
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  d = v_new();
  d->no_handlers = true;
  vmm_set_log_level(d->vm, 0);
  vmm_virtio_check(d->v, check_features, &checked);
  struct input in = {data, size};
  for (unsigned steps = 0; in.n && steps < MAX_STEPS; steps++) {
    if (take(&in, 1) % 4)
      guest(&in);
    else
      host(&in);
    check();
    check_registers();
  }
  /* Whatever happened: a reset helps, and it works again. */
  setcfg(d->vm, SLOT, COMMAND, 2, 0);
  setcfg(d->vm, SLOT, BAR0, 4, 0);
  setcfg(d->vm, SLOT, BAR0 + 4, 4, HIGH >> 32);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON);
  d->bar = HIGH;
  v_serve(d);
  set_status(d, 0);
  v_serve(d);
  MUST(status(d) == 0);
  up(d, V1, 15);
  vmm_queue *q = vmm_virtio_queue(d->v, 2);
  MUST(vmm_queue_size(q) == 256);
  v_desc(d, 2, 0, V_DATA, 4, 2, 0);
  v_avail(d, 2, 0, 256);
  work(2);
  MUST(v_used(d, 2) == 1);
  v_end(d);
  return 0;
}
