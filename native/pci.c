/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI: config space as plain memory with write masks, ECAM and CF8/CFC, BARs.
 * One bus per segment, 32 slots of one function (PCI Local Bus 3.0 §6, PCIe 4.0 §7).
 *
 * A BAR decodes only inside its segment's windows, only while the command
 * register says so, and only where nothing else does: whatever a guest writes
 * there cannot shadow RAM, an interrupt controller or another device.
 */
#include "pci.h"

#include <stdlib.h>
#include <string.h>

enum { COMMAND = 0x04, STATUS = 0x06, BAR0 = 0x10, CAP_PTR = 0x34, COMMAND_IO = 1, COMMAND_MEM = 2,
       COMMAND_NO_INTX = 0x400, STATUS_INTX = 8, STATUS_CAPS = 0x10, INTERRUPT_LINE = 0x3c, INTERRUPT_PIN = 0x3d };
enum { CONFIG_ADDRESS = 0xcf8, ECAM_SIZE = 1 << 20 };

static void put(uint8_t *at, uint32_t size, uint32_t v) {
  for (uint32_t i = 0; i < size; i++) at[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get(const uint8_t *at, uint32_t size) {
  uint32_t v = 0;
  for (uint32_t i = 0; i < size; i++) v |= (uint32_t)at[i] << (8 * i);
  return v;
}

/* --- BARs --- */

static void bar_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write);

struct bar_handle { /* a bus handler's opaque: which BAR of which device */
  vmm_pci_dev *dev;
  unsigned index;
};

struct vmm_pci_full { /* a device with the handles that the bus points to */
  vmm_pci_dev dev;
  struct bar_handle handle[6];
};

static void bar_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct bar_handle *h = opaque;
  struct vmm_bar *b = &h->dev->bar[h->index];
  if (h->dev->msix && vmm_msix_io(h->dev, h->index, offset, data, size, is_write)) return;
  if (b->fn) b->fn(b->opaque, offset, data, size, is_write);
}

static int space_of(const struct vmm_bar *b) {
  return b->flags & VMM_BAR_IO ? VMM_PIO : VMM_MMIO;
}

/* Where config space says that the BAR is; VMM_NO_ADDR if it must not decode there. */
static uint64_t wanted(vmm_pci_dev *dev, unsigned i) {
  struct vmm_bar *b = &dev->bar[i];
  bool io = b->flags & VMM_BAR_IO;
  if (!dev->seg || !(dev->cfg[COMMAND] & (io ? COMMAND_IO : COMMAND_MEM))) return VMM_NO_ADDR;
  uint64_t at = get(&dev->cfg[BAR0 + 4 * i], 4);
  if (b->flags & VMM_BAR_64) at |= (uint64_t)get(&dev->cfg[BAR0 + 4 * i + 4], 4) << 32;
  at &= ~(uint64_t)(io ? 3 : 15);
  for (int w = io ? 2 : 0; w < (io ? 3 : 2); w++) {
    uint64_t base = dev->seg->window[w].base, size = dev->seg->window[w].size;
    if (b->size <= size && at >= base && at - base <= size - b->size) return at;
  }
  return VMM_NO_ADDR;
}

static void ioeventfds(vmm_pci_dev *dev, struct vmm_bar *b, int assign) {
  if (b->at == VMM_NO_ADDR) return;
  for (struct vmm_pci_ioeventfd *e = b->ioeventfds; e; e = e->next)
    if (vmm_ioeventfd(dev->vm, space_of(b), b->at + e->offset, e->len, e->fd, assign) && assign)
      vmm_log(dev->vm, 4, "PCI %02x: cannot assign an ioeventfd", dev->slot);
}

static void map_memory(vmm_pci_dev *dev, struct vmm_bar *b) {
  bool here = b->at != VMM_NO_ADDR; /* KVM looks at the address even of a slot that goes */
  if (b->memory && vmm_mem_slot(dev->vm, &b->slot, here ? b->at : 0, here ? b->size : 0, b->memory, 0))
    vmm_log(dev->vm, 4, "PCI %02x: cannot map the memory of a BAR", dev->slot);
}

static void place(vmm_pci_dev *dev, unsigned i) {
  struct vmm_bar *b = &dev->bar[i];
  uint64_t to = b->size ? wanted(dev, i) : VMM_NO_ADDR;
  if (!b->size || to == b->at) return;
  ioeventfds(dev, b, 0);
  struct bar_handle *h = &((struct vmm_pci_full *)dev)->handle[i];
  int err = vmm_bus_move(dev->vm, space_of(b), b->at, to, b->size, bar_io, h);
  if (err == -EEXIST && vmm_pci_hotplug_yield(dev->vm, space_of(b), to, b->size))
    err = vmm_bus_move(dev->vm, space_of(b), b->at, to, b->size, bar_io, h);
  if (err) { /* taken by another device: decode nowhere until that one moves */
    if (b->at != VMM_NO_ADDR) vmm_bus_move(dev->vm, space_of(b), b->at, VMM_NO_ADDR, 0, NULL, NULL);
    to = VMM_NO_ADDR;
  }
  b->at = to;
  map_memory(dev, b);
  ioeventfds(dev, b, 1);
}

/* With the segment's lock held. What one BAR leaves may be what another waits for, so go on until nothing
 * moves: each round but the last puts at least one BAR into its final place. */
static void place_all(struct vmm_pci_segment *seg) {
  bool moved;
  do {
    moved = false;
    for (unsigned s = 0; s < 32; s++)
      for (unsigned i = 0; seg->dev[s] && i < 6; i++) {
        uint64_t before = seg->dev[s]->bar[i].at;
        place(seg->dev[s], i);
        moved |= seg->dev[s]->bar[i].at != before;
      }
  } while (moved);
}

/* --- config space --- */

static bool overlaps(uint32_t at, uint32_t size, uint32_t lo, uint32_t len) {
  return at < lo + len && lo < at + size;
}

/* The device stays while we are in here without the lock: taking it away waits for the bus's handlers. */
static void cfg_read(struct vmm_pci_segment *seg, unsigned slot, uint32_t at, uint8_t *data, uint32_t size) {
  pthread_mutex_lock(&seg->lock);
  vmm_pci_dev *dev = seg->dev[slot];
  bool there = dev && !dev->hidden && at + size <= sizeof dev->cfg;
  if (there && dev->on_access) {
    pthread_mutex_unlock(&seg->lock);
    dev->on_access(dev->on_access_opaque, at, size, 0);
    pthread_mutex_lock(&seg->lock);
  }
  if (there) {
    memcpy(data, &dev->cfg[at], size);
    if (overlaps(at, size, STATUS, 1) && __atomic_load_n(&dev->intx, __ATOMIC_RELAXED))
      data[STATUS - at] |= STATUS_INTX;
  } else {
    memset(data, 0xff, size);
  }
  pthread_mutex_unlock(&seg->lock);
}

/* --- INTx --- */

static void drive(vmm_pci_dev *dev) {
  if (!dev->intx_wired) return;
  bool on = dev->intx && !(__atomic_load_n(&dev->cfg[COMMAND + 1], __ATOMIC_RELAXED) & COMMAND_NO_INTX >> 8);
  if (vmm_irq_level(dev->vm, dev->intx_gsi, dev->slot & 31, on) && on)
    vmm_log(dev->vm, 4, "PCI %02x: cannot raise interrupt %u", dev->slot, dev->intx_gsi);
}

void vmm_pci_set_intx(vmm_pci_dev *dev, uint32_t gsi) {
  dev->intx_wired = true;
  dev->intx_gsi = gsi;
  dev->cfg[INTERRUPT_LINE] = (uint8_t)gsi;
  dev->cfg[INTERRUPT_PIN] = 1; /* INTA */
}

/* Level of INTA, as the device has it; the guest may hold it back in the command register. Any thread. */
void vmm_pci_intx(vmm_pci_dev *dev, int level) {
  pthread_mutex_lock(&dev->intx_lock);
  __atomic_store_n(&dev->intx, level != 0, __ATOMIC_RELAXED);
  drive(dev);
  pthread_mutex_unlock(&dev->intx_lock);
}

static void cfg_write(struct vmm_pci_segment *seg, unsigned slot, uint32_t at, const uint8_t *data, uint32_t size) {
  pthread_mutex_lock(&seg->lock);
  vmm_pci_dev *dev = seg->dev[slot];
  vmm_pci_access_fn fn = NULL;
  void *opaque = NULL;
  if (dev && !dev->hidden && at + size <= sizeof dev->cfg) {
    for (uint32_t i = 0; i < size; i++) {
      uint8_t *c = &dev->cfg[at + i], wm = dev->wmask[at + i];
      uint8_t value = (uint8_t)(((*c & ~wm) | (data[i] & wm)) & ~(data[i] & dev->w1c[at + i]));
      __atomic_store_n(c, value, __ATOMIC_RELAXED); /* the command register is read without the lock */
    }
    if (overlaps(at, size, COMMAND, 2) || overlaps(at, size, BAR0, 24)) place_all(seg);
    if (overlaps(at, size, COMMAND + 1, 1)) {
      pthread_mutex_lock(&dev->intx_lock);
      drive(dev);
      pthread_mutex_unlock(&dev->intx_lock);
    }
    if (dev->msix && overlaps(at, size, dev->msix->cap + 2, 2)) vmm_msix_control(dev);
    fn = dev->on_access;
    opaque = dev->on_access_opaque;
  }
  pthread_mutex_unlock(&seg->lock);
  if (fn) fn(opaque, at, size, 1);
}

static void ecam_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_pci_segment *seg = opaque;
  if (offset >> 12 & 7) return; /* functions 1..7 are not there */
  unsigned slot = (unsigned)(offset >> 15 & 31);
  if (is_write)
    cfg_write(seg, slot, offset & 0xfff, data, size);
  else
    cfg_read(seg, slot, offset & 0xfff, data, size);
}

static void cf8_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_pci_segment *seg = opaque;
  if (offset < 4) { /* CONFIG_ADDRESS is one dword; narrower accesses are other people's ports (PCI 3.0 §3.2.2.3.2) */
    if (offset || size != 4) return;
    pthread_mutex_lock(&seg->lock);
    if (is_write)
      __atomic_store_n(&seg->address, (uint32_t)vmm_load(data, 4) & 0x80fffffcu, __ATOMIC_RELAXED);
    else
      vmm_store(data, 4, seg->address);
    pthread_mutex_unlock(&seg->lock);
    return;
  }
  uint32_t address = __atomic_load_n(&seg->address, __ATOMIC_RELAXED);
  if (!(address >> 31) || address >> 16 & 0xff || address >> 8 & 7) return; /* disabled, bus > 0, function > 0 */
  uint32_t at = (address & 0xfc) + (uint32_t)(offset - 4);
  if (is_write)
    cfg_write(seg, address >> 11 & 31, at, data, size);
  else
    cfg_read(seg, address >> 11 & 31, at, data, size);
}

/* --- segments --- */

/* CF8/CFC reach segment 0 only, and only where the CPU has ports. */
int vmm_pci_segment_add(vmm_vm *vm, unsigned id, uint64_t ecam, uint64_t mmio32, uint64_t mmio32_size, uint64_t mmio64,
                        uint64_t mmio64_size, uint64_t pio, uint64_t pio_size) {
  if (id >= VMM_MAX_SEGMENTS || vm->segment[id]) return -EINVAL;
  struct vmm_pci_segment *seg = calloc(1, sizeof *seg);
  if (!seg) return -ENOMEM;
  *seg = (struct vmm_pci_segment){
      .vm = vm, .id = id, .ecam = ecam, .window = {{mmio32, mmio32_size}, {mmio64, mmio64_size}, {pio, pio_size}}};
  pthread_mutex_init(&seg->lock, NULL);
  int err = vmm_bus_add(vm, VMM_MMIO, ecam, ECAM_SIZE, ecam_io, seg);
  if (!err && !id && pio_size && vm->ports_at == VMM_NO_ADDR) {
    err = vmm_bus_add(vm, VMM_PIO, CONFIG_ADDRESS, 8, cf8_io, seg);
    if (err) vmm_bus_del(vm, VMM_MMIO, ecam);
  }
  if (err) {
    free(seg);
    return err;
  }
  vm->segment[id] = seg;
  return 0;
}

void vmm_pci_segments_free(vmm_vm *vm) {
  for (unsigned i = 0; i < VMM_MAX_SEGMENTS; i++) {
    struct vmm_pci_segment *seg = vm->segment[i];
    if (!seg) continue;
    for (unsigned s = 0; s < 32; s++)
      if (seg->dev[s]) vmm_pci_detach(seg->dev[s]);
    pthread_mutex_destroy(&seg->lock);
    free(seg);
    vm->segment[i] = NULL;
  }
}

/* --- devices --- */

vmm_pci_dev *vmm_pci_new(vmm_vm *vm) {
  struct vmm_pci_full *full = calloc(1, sizeof *full);
  if (!full) return NULL;
  vmm_pci_dev *dev = &full->dev;
  dev->vm = vm;
  dev->next_free = 0x40;
  pthread_mutex_init(&dev->intx_lock, NULL);
  for (unsigned i = 0; i < 6; i++) {
    dev->bar[i].at = VMM_NO_ADDR;
    dev->bar[i].slot = -1;
    full->handle[i] = (struct bar_handle){dev, i};
  }
  /* Command: INTx disable, SERR, parity, bus master, memory, I/O. Interrupt line is scratch. */
  put(&dev->wmask[COMMAND], 2, 0x0547);
  dev->wmask[0x0c] = 0xff; /* cache line size */
  dev->wmask[0x3c] = 0xff;
  return dev;
}

int vmm_pci_set(vmm_pci_dev *dev, uint32_t offset, uint32_t size, uint32_t value, uint32_t wmask, uint32_t w1c) {
  if (!size || size > 4 || offset > sizeof dev->cfg - size) return -EINVAL;
  struct vmm_pci_segment *seg = dev->seg;
  if (seg) pthread_mutex_lock(&seg->lock);
  put(&dev->cfg[offset], size, value);
  put(&dev->wmask[offset], size, wmask);
  put(&dev->w1c[offset], size, w1c);
  if (seg && (overlaps(offset, size, COMMAND, 2) || overlaps(offset, size, BAR0, 24))) place_all(seg);
  if (seg) pthread_mutex_unlock(&seg->lock);
  return 0;
}

uint32_t vmm_pci_get(vmm_pci_dev *dev, uint32_t offset, uint32_t size) {
  if (!size || size > 4 || offset > sizeof dev->cfg - size) return 0xffffffffu;
  struct vmm_pci_segment *seg = dev->seg;
  if (seg) pthread_mutex_lock(&seg->lock);
  uint32_t v = get(&dev->cfg[offset], size);
  if (seg) pthread_mutex_unlock(&seg->lock);
  return v;
}

/* Append a capability: `body` follows the two header bytes, `wmask` (or NULL) says
 * which of its bits the guest may write. Returns its offset. */
int vmm_pci_add_cap(vmm_pci_dev *dev, uint8_t id, const uint8_t *body, const uint8_t *wmask, uint32_t len) {
  uint32_t at = (dev->next_free + 3) & ~3u;
  if (dev->seg) return -EBUSY;
  if (len > 0xc0 || at + 2 + len > 0x100) return -ENOSPC;
  dev->cfg[at] = id;
  memcpy(&dev->cfg[at + 2], body, len);
  if (wmask) memcpy(&dev->wmask[at + 2], wmask, len);
  dev->cfg[dev->last_cap ? dev->last_cap + 1 : CAP_PTR] = (uint8_t)at;
  dev->cfg[STATUS] |= STATUS_CAPS;
  dev->last_cap = at;
  dev->next_free = at + 2 + len;
  return (int)at;
}

/* size: a power of two, at least 16 bytes (4 for I/O). A 64-bit BAR takes index+1 too. */
int vmm_pci_add_bar(vmm_pci_dev *dev, unsigned i, uint64_t size, uint32_t flags, vmm_io_fn fn, void *opaque) {
  bool io = flags & VMM_BAR_IO, wide = flags & VMM_BAR_64;
  if (i >= (wide ? 5u : 6u) || dev->bar[i].size || (size & (size - 1)) || size < (io ? 4u : 16u)) return -EINVAL;
  if (!wide && size > 1u << 31) return -EINVAL;
  if (io && (size > 256 || wide)) return -EINVAL;
  if (dev->seg) return -EBUSY;
  if (i && (dev->bar[i - 1].flags & VMM_BAR_64) && dev->bar[i - 1].size) return -EINVAL;
  if (wide && dev->bar[i + 1].size) return -EINVAL;
  dev->bar[i] = (struct vmm_bar){.size = size, .flags = flags, .at = VMM_NO_ADDR, .fn = fn, .opaque = opaque, .slot = -1};
  put(&dev->cfg[BAR0 + 4 * i], 4, flags & (io ? VMM_BAR_IO : VMM_BAR_64 | VMM_BAR_PREFETCH));
  uint64_t mask = ~(size - 1);
  put(&dev->wmask[BAR0 + 4 * i], 4, (uint32_t)mask & ~(io ? 3u : 15u));
  if (wide) put(&dev->wmask[BAR0 + 4 * i + 4], 4, (uint32_t)(mask >> 32));
  return 0;
}

/* The address that the BAR holds when the device is attached. */
int vmm_pci_bar_first(vmm_pci_dev *dev, unsigned i, uint64_t at) {
  if (i >= 6 || !dev->bar[i].size || at % dev->bar[i].size || dev->seg) return -EINVAL;
  uint8_t *reg = &dev->cfg[BAR0 + 4 * i];
  put(reg, 4, (uint32_t)at | (get(reg, 4) & (dev->bar[i].flags & VMM_BAR_IO ? 3u : 15u)));
  if (dev->bar[i].flags & VMM_BAR_64) put(reg + 4, 4, (uint32_t)(at >> 32));
  return 0;
}

int vmm_pci_bar_ioeventfd(vmm_pci_dev *dev, unsigned i, uint64_t offset, uint32_t len, int fd, int assign) {
  if (i >= 6 || !dev->bar[i].size || len > dev->bar[i].size || offset > dev->bar[i].size - len) return -EINVAL;
  struct vmm_pci_segment *seg = dev->seg;
  struct vmm_bar *b = &dev->bar[i];
  int err = 0;
  if (seg) pthread_mutex_lock(&seg->lock);
  struct vmm_pci_ioeventfd **at = &b->ioeventfds, *e;
  while (*at && ((*at)->fd != fd || (*at)->offset != offset)) at = &(*at)->next;
  if (assign && *at) {
    err = -EEXIST;
  } else if (!assign && !*at) {
    err = -ENOENT;
  } else {
    if (b->at != VMM_NO_ADDR) err = vmm_ioeventfd(dev->vm, space_of(b), b->at + offset, len, fd, assign);
    if (assign && !err) {
      e = malloc(sizeof *e);
      if (e) {
        *e = (struct vmm_pci_ioeventfd){b->ioeventfds, offset, len, fd};
        b->ioeventfds = e;
      } else {
        err = -ENOMEM;
      }
    } else if (!assign) {
      e = *at;
      *at = e->next;
      free(e);
    }
  }
  if (seg) pthread_mutex_unlock(&seg->lock);
  return err;
}

uint64_t vmm_pci_bar_base(vmm_pci_dev *dev, unsigned i) {
  struct vmm_pci_segment *seg = dev->seg;
  if (i >= 6 || !seg) return VMM_NO_ADDR;
  pthread_mutex_lock(&seg->lock);
  uint64_t at = dev->bar[i].at;
  pthread_mutex_unlock(&seg->lock);
  return at;
}

int vmm_pci_bar_memory(vmm_pci_dev *dev, unsigned i, void *hva) {
  if (i >= 6 || dev->bar[i].size < 4096 || dev->bar[i].flags & VMM_BAR_IO || dev->seg) return -EINVAL;
  dev->bar[i].memory = hva;
  return 0;
}

void vmm_pci_on_access(vmm_pci_dev *dev, vmm_pci_access_fn fn, void *opaque) {
  dev->on_access_opaque = opaque;
  dev->on_access = fn;
}

/* Write config bytes as the device: the guest's masks do not count, and do not change. */
void vmm_pci_poke(vmm_pci_dev *dev, uint32_t offset, const uint8_t *data, uint32_t size) {
  struct vmm_pci_segment *seg = dev->seg;
  if (offset + size > sizeof dev->cfg) return;
  if (seg) pthread_mutex_lock(&seg->lock);
  memcpy(&dev->cfg[offset], data, size);
  if (seg) pthread_mutex_unlock(&seg->lock);
}

int vmm_pci_attach(vmm_pci_dev *dev, unsigned segment, unsigned slot) {
  struct vmm_pci_segment *seg = segment < VMM_MAX_SEGMENTS ? dev->vm->segment[segment] : NULL;
  if (!seg || slot >= 32 || dev->seg) return -EINVAL;
  memcpy(dev->initial, dev->cfg, sizeof dev->cfg);
  pthread_mutex_lock(&seg->lock);
  int err = seg->dev[slot] ? -EEXIST : 0;
  if (!err) {
    dev->seg = seg;
    dev->slot = slot;
    dev->hidden = false;
    seg->dev[slot] = dev;
    place_all(seg);
  }
  pthread_mutex_unlock(&seg->lock);
  return err;
}

/* Take the device off its bus; afterwards no handler of it runs. Not from a vCPU thread. */
void vmm_pci_detach(vmm_pci_dev *dev) {
  struct vmm_pci_segment *seg = dev->seg;
  if (!seg) return;
  pthread_mutex_lock(&seg->lock);
  dev->seg = NULL;
  seg->dev[dev->slot] = NULL;
  for (unsigned i = 0; i < 6; i++) place(dev, i);
  memcpy(dev->cfg, dev->initial, sizeof dev->cfg);
  vmm_msix_reset(dev);
  place_all(seg);
  pthread_mutex_unlock(&seg->lock);
  vmm_bus_sync(dev->vm);
  if (dev->intx) vmm_pci_intx(dev, 0);
}

void vmm_pci_free(vmm_pci_dev *dev) {
  if (!dev) return;
  vmm_pci_detach(dev);
  vmm_msix_free(dev);
  for (unsigned i = 0; i < 6; i++)
    for (struct vmm_pci_ioeventfd *e = dev->bar[i].ioeventfds, *next; e; e = next) {
      next = e->next;
      free(e);
    }
  pthread_mutex_destroy(&dev->intx_lock);
  free((struct vmm_pci_full *)dev);
}

/* Config space as it was when attached (a reset of the machine). */
void vmm_pci_reset(vmm_pci_dev *dev) {
  struct vmm_pci_segment *seg = dev->seg;
  if (!seg) return;
  pthread_mutex_lock(&seg->lock);
  memcpy(dev->cfg, dev->initial, sizeof dev->cfg);
  place_all(seg);
  vmm_msix_reset(dev);
  pthread_mutex_unlock(&seg->lock);
}

/* Config space, MSI-X table and pending bits as bytes; returns the length, or -ENOSPC. The vCPUs are paused. */
int vmm_pci_save(vmm_pci_dev *dev, uint8_t *out, size_t cap) {
  size_t len = sizeof dev->cfg + vmm_msix_state_size(dev);
  if (cap < len) return -ENOSPC;
  if (dev->seg) pthread_mutex_lock(&dev->seg->lock);
  memcpy(out, dev->cfg, sizeof dev->cfg);
  vmm_msix_save(dev, out + sizeof dev->cfg);
  if (dev->seg) pthread_mutex_unlock(&dev->seg->lock);
  return (int)len;
}

/* Read-only fields keep what this device has: a saved state cannot change what the device is. */
int vmm_pci_restore(vmm_pci_dev *dev, const uint8_t *in, size_t len) {
  struct vmm_pci_segment *seg = dev->seg;
  if (!seg || len != sizeof dev->cfg + vmm_msix_state_size(dev)) return -EINVAL;
  pthread_mutex_lock(&seg->lock);
  for (size_t i = 0; i < sizeof dev->cfg; i++) {
    uint8_t m = dev->wmask[i] | dev->w1c[i];
    dev->cfg[i] = (uint8_t)((dev->cfg[i] & ~m) | (in[i] & m));
  }
  place_all(seg);
  vmm_msix_restore(dev, in + sizeof dev->cfg);
  pthread_mutex_unlock(&seg->lock);
  return 0;
}
