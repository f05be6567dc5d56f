/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus: which handler owns a port or an address.
 *
 * A table is sorted, immutable and replaced whole, so that an exit looks it up
 * without a lock. Each vCPU has an epoch that is odd while it is inside a
 * handler; a replaced table is freed once every vCPU's epoch has moved on (or was
 * even) since. Writers on a vCPU thread (a guest moving a BAR) never wait; others
 * do, so that after vmm_bus_del() no handler of the region runs.
 */
#include "native.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct vmm_region *find(const struct vmm_table *t, uint64_t addr) {
  uint32_t lo = 0, hi = t->n;
  while (lo < hi) {
    uint32_t mid = (lo + hi) / 2;
    if (t->r[mid].base <= addr)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo && addr - t->r[lo - 1].base < t->r[lo - 1].len ? &t->r[lo - 1] : NULL;
}

void vmm_bus_access(vmm_vm *vm, int space, uint64_t addr, void *data, uint32_t size, int is_write) {
  struct vmm_vcpu *self = vmm_vcpu_self();
  if (!is_write) memset(data, 0xff, size);
  if (self) atomic_fetch_add(&self->seq, 1);
  const struct vmm_region *r = find(atomic_load(&vm->bus[space].table), addr);
  /* An access that runs over the end of its region meets nobody, as an access between regions does. */
  if (r && size <= r->len - (addr - r->base)) r->fn(r->opaque, addr - r->base, data, size, is_write);
  if (self) {
    atomic_fetch_add(&self->seq, 1);
    if (atomic_load(&vm->sync_waiters)) syscall(SYS_futex, &self->seq, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
  }
}

/* Ports as memory. Inside a handler already: the epoch is the vCPU's, whichever table it looks at. */
static void ports_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  vmm_vm *vm = opaque;
  const struct vmm_region *r = find(atomic_load(&vm->bus[VMM_PIO].table), offset);
  if (r && size <= r->len - (offset - r->base)) r->fn(r->opaque, offset - r->base, data, size, is_write);
}

/* For a CPU without port instructions: ports [0, len) are at address `base`. Before any PCI segment. */
int vmm_bus_ports(vmm_vm *vm, uint64_t base, uint64_t len) {
  int err = vmm_bus_add(vm, VMM_MMIO, base, len, ports_io, vm);
  if (!err) vm->ports_at = base;
  return err;
}

/* Wait until every handler that was running has returned. Not from a vCPU thread. */
void vmm_bus_sync(vmm_vm *vm) {
  if (vmm_vcpu_self()) return;
  atomic_fetch_add(&vm->sync_waiters, 1);
  for (unsigned i = 0; i < VMM_MAX_VCPUS; i++) {
    struct vmm_vcpu *v = vm->vcpu[i];
    uint32_t s = v ? atomic_load(&v->seq) : 0;
    while (s % 2 && atomic_load(&v->seq) == s)
      syscall(SYS_futex, &v->seq, FUTEX_WAIT_PRIVATE, s, NULL, NULL, 0);
  }
  atomic_fetch_sub(&vm->sync_waiters, 1);
}

/* With bus_lock held: free what no vCPU can be reading any more. */
static void reclaim(vmm_vm *vm, struct vmm_bus *bus) {
  for (struct vmm_retired **at = &bus->retired, *r; (r = *at);) {
    bool busy = false;
    for (unsigned i = 0; i < VMM_MAX_VCPUS && !busy; i++)
      busy = vm->vcpu[i] && r->seq[i] % 2 && atomic_load(&vm->vcpu[i]->seq) == r->seq[i];
    if (busy) {
      at = &r->next;
      continue;
    }
    *at = r->next;
    free(r->table);
    free(r);
  }
}

static struct vmm_table *edit(const struct vmm_table *old, uint64_t from, const struct vmm_region *add, int *err) {
  struct vmm_table *t = malloc(sizeof *t + (old->n + 1) * sizeof *t->r);
  if (!t) return *err = -ENOMEM, NULL;
  bool removed = from == VMM_NO_ADDR;
  uint32_t n = 0;
  *err = 0;
  for (uint32_t i = 0; i < old->n; i++) {
    const struct vmm_region *r = &old->r[i];
    if (!removed && r->base == from) {
      removed = true;
      continue;
    }
    if (add && add->base <= r->base + (r->len - 1) && r->base <= add->base + (add->len - 1)) *err = -EEXIST;
    t->r[n++] = *r;
  }
  if (!removed) *err = -ENOENT;
  if (add && !*err) {
    uint32_t at = n;
    while (at && t->r[at - 1].base > add->base) at--;
    memmove(&t->r[at + 1], &t->r[at], (n - at) * sizeof *t->r);
    t->r[at] = *add;
    n++;
  }
  t->n = n;
  if (*err) free(t), t = NULL;
  return t;
}

int vmm_bus_move(vmm_vm *vm, int space, uint64_t from, uint64_t to, uint64_t len, vmm_io_fn fn, void *opaque) {
  struct vmm_region add = {to, len, fn, opaque};
  if (to != VMM_NO_ADDR && (!len || to + (len - 1) < to || !fn)) return -EINVAL;
  struct vmm_bus *bus = &vm->bus[space & 1];
  struct vmm_retired *gone = calloc(1, sizeof *gone + VMM_MAX_VCPUS * sizeof gone->seq[0]);
  if (!gone) return -ENOMEM;
  int err;
  pthread_mutex_lock(&vm->bus_lock);
  struct vmm_table *old = atomic_load(&bus->table);
  struct vmm_table *t = edit(old, from, to == VMM_NO_ADDR ? NULL : &add, &err);
  if (t) {
    atomic_store(&bus->table, t);
    gone->table = old;
    for (unsigned i = 0; i < VMM_MAX_VCPUS; i++) gone->seq[i] = vm->vcpu[i] ? atomic_load(&vm->vcpu[i]->seq) : 0;
    gone->next = bus->retired;
    bus->retired = gone;
    reclaim(vm, bus);
  } else {
    free(gone);
  }
  pthread_mutex_unlock(&vm->bus_lock);
  return err;
}

int vmm_bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  if (base == VMM_NO_ADDR) return -EINVAL;
  return vmm_bus_move(vm, space, VMM_NO_ADDR, base, len, fn, opaque);
}

int vmm_bus_del(vmm_vm *vm, int space, uint64_t base) {
  if (base == VMM_NO_ADDR) return -ENOENT;
  int err = vmm_bus_move(vm, space, base, VMM_NO_ADDR, 0, NULL, NULL);
  vmm_bus_sync(vm);
  return err;
}

int vmm_bus_init(vmm_vm *vm) {
  vm->ports_at = VMM_NO_ADDR;
  for (int i = 0; i < 2; i++) {
    struct vmm_table *t = calloc(1, sizeof *t);
    if (!t) return -ENOMEM;
    atomic_store(&vm->bus[i].table, t);
  }
  return 0;
}

void vmm_bus_free(vmm_vm *vm) {
  for (int i = 0; i < 2; i++) {
    free(atomic_load(&vm->bus[i].table));
    for (struct vmm_retired *r = vm->bus[i].retired, *next; r; r = next) {
      next = r->next;
      free(r->table);
      free(r);
    }
  }
}
