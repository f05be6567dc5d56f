/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X (PCI 3.0 §6.8.2): table and PBA in a BAR, one eventfd per vector.
 *
 * A device signals by writing the eventfd. While the vector may fire, the eventfd
 * is an irqfd and the signal never leaves the kernel; while it is masked the
 * eventfd merely counts, which is the pending bit. Enabling the function routes
 * all unmasked vectors with a single KVM_SET_GSI_ROUTING.
 */
#include "pci.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { CAP_MSIX = 0x11, ENABLE = 0x80, FUNCTION_MASK = 0x40, VECTOR_MASK = 1 };

static uint32_t word(const struct vmm_msix *m, unsigned v, unsigned i) {
  uint32_t x;
  memcpy(&x, &m->table[16 * v + 4 * i], 4);
  return x;
}

static bool may_fire(const struct vmm_msix *m, unsigned v) {
  return m->enabled && !m->masked && !(word(m, v, 3) & VECTOR_MASK);
}

static void disarm(vmm_pci_dev *dev, unsigned v) {
  struct vmm_msix_vector *vec = &dev->msix->vec[v];
  if (!vec->assigned) return;
  vmm_irq_assign(dev->vm, (uint32_t)vec->gsi, vec->fd, 0);
  vec->assigned = false;
}

/* Note the vector's message in the routing table (not sent to KVM yet). */
static bool route(vmm_pci_dev *dev, unsigned v) {
  struct vmm_msix *m = dev->msix;
  struct vmm_msix_vector *vec = &m->vec[v];
  if (vec->gsi < 0) vec->gsi = vmm_irq_alloc(dev->vm);
  if (vec->gsi < 0) {
    vmm_log(dev->vm, 4, "PCI %02x: no GSI left for MSI-X vector %u", dev->slot, v);
    return false;
  }
  uint64_t address = word(m, v, 0) | (uint64_t)word(m, v, 1) << 32;
  return !vmm_irq_msi(dev->vm, (uint32_t)vec->gsi, address, word(m, v, 2), vmm_pci_requester(dev));
}

static void arm(vmm_pci_dev *dev, unsigned v) {
  struct vmm_msix_vector *vec = &dev->msix->vec[v];
  if (vec->assigned || vec->gsi < 0) return;
  if (vmm_irq_assign(dev->vm, (uint32_t)vec->gsi, vec->fd, 1)) {
    vmm_log(dev->vm, 4, "PCI %02x: cannot assign the irqfd of MSI-X vector %u", dev->slot, v);
    return;
  }
  vec->assigned = true;
  /* KVM delivers a count left from masked times when the irqfd is assigned, but leaves it in the eventfd:
   * take it out, or it would read as pending, and be delivered again, after the next mask. */
  eventfd_t delivered;
  (void)!eventfd_read(vec->fd, &delivered);
}

/* With m->lock held: bring vectors [from, to) in line with table and control word. */
static void update(vmm_pci_dev *dev, unsigned from, unsigned to) {
  struct vmm_msix *m = dev->msix;
  bool any = false;
  for (unsigned v = from; v < to; v++)
    if (!may_fire(m, v))
      disarm(dev, v);
    else
      any |= route(dev, v);
  if (!any) return;
  if (vmm_irq_commit(dev->vm)) vmm_log(dev->vm, 4, "PCI %02x: cannot set MSI routes", dev->slot);
  for (unsigned v = from; v < to; v++)
    if (may_fire(m, v)) arm(dev, v);
}

/* The guest wrote the control word (or state was restored). */
void vmm_msix_control(vmm_pci_dev *dev) {
  struct vmm_msix *m = dev->msix;
  uint8_t control = dev->cfg[m->cap + 3];
  pthread_mutex_lock(&m->lock);
  m->enabled = control & ENABLE;
  m->masked = control & FUNCTION_MASK;
  update(dev, 0, m->n);
  pthread_mutex_unlock(&m->lock);
}

static uint64_t pending_bits(struct vmm_msix *m, unsigned first) {
  uint64_t bits = 0;
  for (unsigned v = first; v < m->n && v < first + 64; v++) {
    struct pollfd p = {.fd = m->vec[v].fd, .events = POLLIN};
    if (!m->vec[v].assigned && poll(&p, 1, 0) == 1) bits |= 1ull << (v - first);
  }
  return bits;
}

/* True if the access was to the table or the PBA. Only dwords and qwords are defined (§6.8.2). */
bool vmm_msix_io(vmm_pci_dev *dev, unsigned bar, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_msix *m = dev->msix;
  if (bar != m->bar) return false;
  uint64_t table_len = 16ull * m->n, pba_len = (m->n + 63) / 64 * 8;
  bool aligned = (size == 4 || size == 8) && offset % size == 0;
  if (offset >= m->table_at && offset - m->table_at < table_len) {
    uint64_t at = offset - m->table_at;
    if (!aligned || at + size > table_len) return true;
    pthread_mutex_lock(&m->lock);
    if (is_write) {
      memcpy(&m->table[at], data, size);
      update(dev, (unsigned)(at / 16), (unsigned)(at / 16) + 1);
    } else {
      memcpy(data, &m->table[at], size);
    }
    pthread_mutex_unlock(&m->lock);
    return true;
  }
  if (offset >= m->pba_at && offset - m->pba_at < pba_len) {
    uint64_t at = offset - m->pba_at;
    if (aligned && !is_write) {
      pthread_mutex_lock(&m->lock);
      vmm_store(data, size, pending_bits(m, (unsigned)(at / 8 * 64)) >> (at % 8 * 8));
      pthread_mutex_unlock(&m->lock);
    }
    return true;
  }
  return false;
}

/* Table and PBA at the given offsets of a BAR that is already there; they may share it with the device. */
int vmm_pci_add_msix(vmm_pci_dev *dev, unsigned bar, uint64_t table, uint64_t pba, unsigned n) {
  if (dev->msix || dev->seg || !n || n > 2048 || bar >= 6 || (table | pba) % 8) return -EINVAL;
  uint64_t size = dev->bar[bar].size;
  if (table + 16ull * n > size || pba + (n + 63) / 64 * 8 > size) return -EINVAL;
  struct vmm_msix *m = calloc(1, sizeof *m);
  if (!m) return -ENOMEM;
  *m = (struct vmm_msix){.n = n, .bar = bar, .table_at = table, .pba_at = pba};
  pthread_mutex_init(&m->lock, NULL);
  m->table = calloc(n, 16);
  m->vec = calloc(n, sizeof *m->vec);
  dev->msix = m;
  int err = m->table && m->vec ? 0 : -ENOMEM;
  for (unsigned v = 0; m->vec && v < n; v++) m->vec[v] = (struct vmm_msix_vector){-1, -1, false};
  for (unsigned v = 0; !err && v < n; v++) {
    m->table[16 * v + 12] = VECTOR_MASK; /* masked after reset */
    m->vec[v].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->vec[v].fd < 0) err = VMM_FAIL(dev->vm, "eventfd");
  }
  uint32_t t = (uint32_t)table | bar, p = (uint32_t)pba | bar;
  uint8_t body[10] = {(uint8_t)(n - 1), (uint8_t)((n - 1) >> 8)}, wmask[10] = {0, 0xc0};
  memcpy(body + 2, &t, 4);
  memcpy(body + 6, &p, 4);
  if (!err) {
    int cap = vmm_pci_add_cap(dev, CAP_MSIX, body, wmask, sizeof body);
    if (cap < 0)
      err = cap;
    else
      m->cap = (uint32_t)cap;
  }
  if (err) vmm_msix_free(dev);
  return err;
}

/* The eventfd to write for an interrupt. It belongs to the device. */
int vmm_pci_msix_fd(vmm_pci_dev *dev, unsigned v) {
  return dev->msix && v < dev->msix->n ? dev->msix->vec[v].fd : -EINVAL;
}

/* Raise vector v; dropped, as the spec has it, while MSI-X is off (-ENODEV then). */
int vmm_pci_msix_signal(vmm_pci_dev *dev, unsigned v) {
  struct vmm_msix *m = dev->msix;
  if (!m || !atomic_load(&m->enabled)) return -ENODEV;
  if (v >= m->n) return -EINVAL;
  return eventfd_write(m->vec[v].fd, 1) && errno != EAGAIN ? -errno : 0;
}

int vmm_pci_msix_enabled(vmm_pci_dev *dev) {
  return dev->msix && atomic_load(&dev->msix->enabled);
}

void vmm_msix_reset(vmm_pci_dev *dev) {
  struct vmm_msix *m = dev->msix;
  if (!m) return;
  pthread_mutex_lock(&m->lock);
  m->enabled = false;
  m->masked = false;
  for (unsigned v = 0; v < m->n; v++) {
    disarm(dev, v);
    memset(&m->table[16 * v], 0, 16);
    m->table[16 * v + 12] = VECTOR_MASK;
    eventfd_t count;
    (void)!eventfd_read(m->vec[v].fd, &count);
  }
  pthread_mutex_unlock(&m->lock);
}

size_t vmm_msix_state_size(const vmm_pci_dev *dev) {
  return dev->msix ? 16u * dev->msix->n + (dev->msix->n + 63) / 64 * 8 : 0;
}

/* Table, then pending bits. */
void vmm_msix_save(vmm_pci_dev *dev, uint8_t *out) {
  struct vmm_msix *m = dev->msix;
  if (!m) return;
  pthread_mutex_lock(&m->lock);
  memcpy(out, m->table, 16u * m->n);
  for (unsigned v = 0; v < m->n; v += 64) vmm_store(out + 16u * m->n + v / 8, 8, pending_bits(m, v));
  pthread_mutex_unlock(&m->lock);
}

/* The control word is restored already. */
void vmm_msix_restore(vmm_pci_dev *dev, const uint8_t *in) {
  struct vmm_msix *m = dev->msix;
  if (!m) return;
  pthread_mutex_lock(&m->lock);
  memcpy(m->table, in, 16u * m->n);
  for (unsigned v = 0; v < m->n; v++)
    if (in[16u * m->n + v / 8] >> (v % 8) & 1) (void)!eventfd_write(m->vec[v].fd, 1);
  pthread_mutex_unlock(&m->lock);
  vmm_msix_control(dev);
}

void vmm_msix_free(vmm_pci_dev *dev) {
  struct vmm_msix *m = dev->msix;
  if (!m) return;
  dev->msix = NULL;
  for (unsigned v = 0; m->vec && v < m->n; v++) {
    if (m->vec[v].assigned) vmm_irq_assign(dev->vm, (uint32_t)m->vec[v].gsi, m->vec[v].fd, 0);
    if (m->vec[v].gsi >= 0) vmm_irq_release(dev->vm, (uint32_t)m->vec[v].gsi);
    if (m->vec[v].fd >= 0) close(m->vec[v].fd);
  }
  pthread_mutex_destroy(&m->lock);
  free(m->vec);
  free(m->table);
  free(m);
}
