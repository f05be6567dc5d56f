/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile guest and a host that plugs and unplugs: config space by both ways,
 * BARs, MSI-X table and PBA, between attach, detach, reset, save and restore.
 * After each step: BARs decode inside a window and apart from each other, and
 * nothing that is read-only has changed.
 */
#include "harness.h"
#include "input.h"
#include "pci.h"

enum { DEVS = 4, SLOTS = 6, VECTORS = 5, TABLE = 0x40, PBA = 0x100, BAR0 = 0x10, COMMAND = 4, MAX_STEPS = 256 };
#define ECAM 0xe0000000u
static const struct {
  uint64_t base, size;
} window[3] = {{0xc0000000u, 0x10000}, {0x4000000000u, 0x400000000u}, {0xc000, 0x100}};
static const struct {
  uint64_t size;
  uint32_t flags;
} bars[DEVS][6] = {
    {{0x1000, 0}, {32, VMM_BAR_IO}, {0x4000, VMM_BAR_64}},
    {{0x1000, 0}, {0x1000, 0}, {16, 0}, {0x8000, 0}, {4, VMM_BAR_IO}, {64, VMM_BAR_IO}},
    {{8ull << 30, VMM_BAR_64 | VMM_BAR_PREFETCH}, {0}, {0x2000, VMM_BAR_64}, {0}, {256, VMM_BAR_IO}},
    {{0x1000, 0}},
};

static struct plug {
  vmm_pci_dev *dev;
  bool attached;
  unsigned slot;
  uint8_t state[8192];
  int state_len;
} plug[DEVS];
static vmm_vm *vm;
static int event_fd;
static unsigned hits;

static void bar_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  uintptr_t who = (uintptr_t)opaque;
  MUST(plug[who / 6].attached && offset + size <= bars[who / 6][who % 6].size);
  if (!is_write) memset(data, 0x77, size);
  hits++;
}

static void on_access(void *opaque, uint32_t offset, uint32_t size, int is_write) {
  (void)is_write;
  MUST(((struct plug *)opaque)->attached && offset + size <= 4096);
}

static void make(unsigned d) {
  struct plug *p = &plug[d];
  uint8_t body[14], mask[14];
  memset(body, 0x10 + (int)d, sizeof body);
  memset(mask, 0x0f, sizeof mask);
  p->dev = vmm_pci_new(vm);
  MUST(p->dev);
  vmm_pci_set(p->dev, 0, 4, 0x10001af4u + (d << 16), 0, 0);
  vmm_pci_set(p->dev, 6, 2, 0, 0, 0xf900);
  vmm_pci_set(p->dev, 0x200, 4, 0xffffffff, 0, 0xff00ff00);
  for (unsigned i = 0; i < 6; i++)
    if (bars[d][i].size)
      MUST(!vmm_pci_add_bar(p->dev, i, bars[d][i].size, bars[d][i].flags, bar_io, (void *)(uintptr_t)(d * 6 + i)));
  MUST(vmm_pci_add_cap(p->dev, 9, body, mask, sizeof body) > 0);
  if (d != 3) MUST(!vmm_pci_add_msix(p->dev, 0, TABLE, PBA, VECTORS));
  MUST(!vmm_pci_bar_ioeventfd(p->dev, 0, 0x10, 2, event_fd, 1));
  vmm_pci_on_access(p->dev, on_access, p);
  p->attached = false;
  p->state_len = vmm_pci_save(p->dev, p->state, sizeof p->state);
  MUST(p->state_len >= 4096);
}

static void check(void) {
  struct {
    uint64_t at, size;
    bool io;
  } seen[DEVS * 6];
  unsigned n = 0, with_event = 0;
  for (unsigned d = 0; d < DEVS; d++) {
    vmm_pci_dev *dev = plug[d].dev;
    if (!dev) continue;
    for (uint32_t i = 0; plug[d].attached && i < 4096; i += 8) { /* bits that no mask opens keep their value */
      uint64_t now, first, open, clear;
      memcpy(&now, dev->cfg + i, 8), memcpy(&first, dev->initial + i, 8);
      memcpy(&open, dev->wmask + i, 8), memcpy(&clear, dev->w1c + i, 8);
      MUST(!((now ^ first) & ~(open | clear)));
    }
    for (unsigned i = 0; i < 6; i++) {
      uint64_t at = vmm_pci_bar_base(dev, i), size = bars[d][i].size;
      bool io = bars[d][i].flags & VMM_BAR_IO;
      if (at == VMM_NO_ADDR) continue;
      MUST(plug[d].attached && size && at % size == 0);
      MUST(vmm_pci_get(dev, COMMAND, 2) & (io ? 1 : 2));
      bool inside = false;
      for (unsigned w = io ? 2 : 0; w < (io ? 3 : 2); w++)
        inside |= at >= window[w].base && at + size <= window[w].base + window[w].size;
      MUST(inside);
      for (unsigned k = 0; k < n; k++)
        MUST(seen[k].io != io || at + size <= seen[k].at || seen[k].at + seen[k].size <= at);
      seen[n].at = at, seen[n].size = size, seen[n++].io = io;
      with_event += i == 0;
    }
  }
  MUST(fake.n_ioeventfds == with_event);
  MUST(atomic_load(&vm->bus[VMM_MMIO].table)->n + atomic_load(&vm->bus[VMM_PIO].table)->n == n + 2);
}

/* Where config space puts a BAR, if that is a place where it may decode. */
static uint64_t programmed(vmm_pci_dev *dev, unsigned d, unsigned i) {
  bool io = bars[d][i].flags & VMM_BAR_IO;
  uint64_t at = vmm_pci_get(dev, BAR0 + 4 * i, 4), size = bars[d][i].size;
  if (!size || !plug[d].attached || !(vmm_pci_get(dev, COMMAND, 2) & (io ? 1 : 2))) return VMM_NO_ADDR;
  if (bars[d][i].flags & VMM_BAR_64) at |= (uint64_t)vmm_pci_get(dev, BAR0 + 4 * i + 4, 4) << 32;
  at &= ~(uint64_t)(io ? 3 : 15);
  for (unsigned w = io ? 2 : 0; w < (io ? 3 : 2); w++)
    if (at >= window[w].base && at - window[w].base <= window[w].size && size <= window[w].size - (at - window[w].base))
      return at;
  return VMM_NO_ADDR;
}

/* A BAR that may decode does, unless another one is there. */
static void check_none_is_forgotten(void) {
  for (unsigned d = 0; d < DEVS; d++)
    for (unsigned i = 0; plug[d].dev && i < 6; i++) {
      uint64_t want = programmed(plug[d].dev, d, i), size = bars[d][i].size;
      uint64_t at = vmm_pci_bar_base(plug[d].dev, i);
      MUST(at == want || at == VMM_NO_ADDR);
      bool taken = at == want;
      for (unsigned od = 0; od < DEVS && !taken; od++)
        for (unsigned o = 0; plug[od].dev && o < 6; o++) {
          uint64_t other = vmm_pci_bar_base(plug[od].dev, o);
          taken |= other != VMM_NO_ADDR && !((bars[od][o].flags ^ bars[d][i].flags) & VMM_BAR_IO) &&
                   want < other + bars[od][o].size && other < want + size;
        }
      MUST(taken);
    }
}

/* What a write to an address-like register holds: often a good address, often another BAR's. */
static uint64_t value(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 6) {
  case 0:
    return window[0].base + take(in, 2);
  case 1:
    return window[2].base + take(in, 1);
  case 2:
    return window[1].base >> 32; /* a 64-bit BAR's upper half */
  case 3:
    return kind & 0x80 ? UINT64_MAX : 0;
  case 4:
    return take(in, 2);
  default:
    return take(in, 8);
  }
}

static uint64_t io(int space, uint64_t addr, uint32_t size, uint64_t v, int is_write) {
  uint8_t data[8];
  vmm_store(data, 8, v);
  vmm_bus_access(vm, space, addr, data, size, is_write);
  return vmm_load(data, size);
}

static void guest(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  int is_write = kind >> 7;
  uint32_t size = 1u << (kind >> 5 & 3);
  unsigned at = (unsigned)take(in, 2);
  uint64_t v = is_write ? value(in) : 0;
  if (kind & 0x10) at = (kind & 8 ? BAR0 : COMMAND) + at % 24; /* where it matters */
  switch (kind % 8) {
  case 0:
  case 1:
  case 2:
    io(VMM_MMIO, ECAM + (uint64_t)(take(in, 1) % SLOTS << 15) + at % 0x1004, size, v, is_write);
    break;
  case 3:
    if (size == 8) size = 4;
    io(VMM_PIO, 0xcf8, 4, 0x80000000u | take(in, 1) % SLOTS << 11 | at, 1);
    io(VMM_PIO, 0xcfc + at % 4, size, v, is_write);
    break;
  case 4:
    if (size == 8) size = 4;
    io(VMM_PIO, kind & 8 ? 0xcf8 + at % 8 : window[2].base + at % 0x110, size, v, is_write);
    break;
  case 5:
    io(VMM_MMIO, window[0].base + at, size, v, is_write);
    break;
  case 6: { /* a BAR that decodes: MSI-X table, PBA, or the device */
    struct plug *p = &plug[take(in, 1) % DEVS];
    uint64_t base = p->dev ? vmm_pci_bar_base(p->dev, 0) : VMM_NO_ADDR;
    if (base != VMM_NO_ADDR) io(VMM_MMIO, base + TABLE + at % 0xe0, size, v, is_write);
    break;
  }
  default:
    io(VMM_MMIO, ECAM - 4 + (at << 5 | (unsigned)take(in, 1)), size, v, is_write);
  }
}

static void host(struct input *in) {
  unsigned kind = (unsigned)take(in, 1), d = kind >> 4 & 3;
  struct plug *p = &plug[d];
  unsigned slot = (unsigned)take(in, 1) % SLOTS;
  switch (kind % 8) {
  case 0:
  case 1: {
    if (!p->dev) make(d);
    bool taken = p->attached;
    for (unsigned i = 0; i < DEVS; i++) taken |= plug[i].dev && plug[i].attached && plug[i].slot == slot;
    if (!taken) p->attached = true; /* before a handler can run */
    int r = vmm_pci_attach(p->dev, 0, slot);
    MUST(taken ? r < 0 : !r);
    if (!r) p->slot = slot;
    break;
  }
  case 2:
    if (p->dev) vmm_pci_detach(p->dev);
    p->attached = false;
    break;
  case 3:
    if (p->dev) vmm_pci_free(p->dev);
    p->dev = NULL, p->attached = false;
    break;
  case 4:
    if (p->dev) vmm_pci_reset(p->dev);
    break;
  case 5:
    if (p->dev) p->state_len = vmm_pci_save(p->dev, p->state, sizeof p->state);
    break;
  case 6: { /* a saved state may be from anywhere */
    if (!p->dev) break;
    for (unsigned i = 0; i < slot * 2; i++) p->state[take(in, 2) % (unsigned)p->state_len] = (uint8_t)take(in, 1);
    size_t len = (size_t)p->state_len - (kind & 0x80 ? 1 : 0);
    int r = vmm_pci_restore(p->dev, p->state, len);
    if (kind & 0x80) MUST(r < 0);
    break;
  }
  default:
    if (p->dev) vmm_pci_msix_signal(p->dev, slot);
    fake_deliver();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  vm = fake_vm();
  vmm_set_log_level(vm, 0);
  event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  MUST(!vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24));
  MUST(!vmm_pci_segment_add(vm, 0, ECAM, window[0].base, window[0].size, window[1].base, window[1].size,
                            window[2].base, window[2].size));
  struct input in = {data, size};
  for (unsigned steps = 0; in.n && steps < MAX_STEPS; steps++) {
    if (take(&in, 1) % 4)
      guest(&in);
    else
      host(&in);
    check();
    check_none_is_forgotten();
  }
  for (unsigned d = 0; d < DEVS; d++) {
    vmm_pci_free(plug[d].dev);
    plug[d] = (struct plug){0};
  }
  MUST(!fake.n_ioeventfds);
  for (unsigned i = 0; i < FAKE_IRQFDS; i++) MUST(!fake.irqfd[i].fd);
  fake_vm_end(vm);
  close(event_fd);
  return 0;
}
