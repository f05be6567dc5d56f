/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: RAM regions, each one mapping and one KVM slot, and the one
 * translation of a guest-physical address to a host address.
 *
 * Readers (vCPUs, loops) take the map without a lock; it is replaced whole, and
 * old maps live until the VM ends (a few hundred bytes for each hot plug).
 */
#include "native.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ull
#define HUGE_2M (2ull << 20)

static int slot_id(vmm_vm *vm) {
  for (unsigned i = 0; i < 512; i++)
    if (!(vm->slots_used[i / 64] >> (i % 64) & 1)) {
      vm->slots_used[i / 64] |= 1ull << (i % 64);
      return (int)i;
    }
  errno = ENOSPC;
  return -1;
}

/* Reserve with slack so that host and guest addresses agree modulo `align`: only
 * then can the host back guest huge pages with huge pages. */
static void *map_aligned(struct vmm_slot *s, int prot, int flags, int fd, uint64_t align) {
  s->mapped = s->size + (align > PAGE ? align : 0);
  s->map_base = mmap(NULL, s->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (s->map_base == MAP_FAILED) return MAP_FAILED;
  uintptr_t base = (uintptr_t)s->map_base;
  if (align > PAGE) base = ((base + align - 1) & ~(align - 1)) + (s->gpa & (align - 1));
  if (base + s->size > (uintptr_t)s->map_base + s->mapped) base -= align;
  return mmap((void *)base, s->size, prot, flags | MAP_FIXED, fd, 0);
}

/* Have the host take the pages from one of its NUMA nodes only. Before any of them is there. */
static int bind_node(vmm_vm *vm, void *p, uint64_t size, int node) {
  unsigned long mask[16] = {0}; /* as many nodes as Linux can have */
  const unsigned bits = 8 * sizeof *mask;
  if ((unsigned)node >= 16 * bits) {
    errno = EINVAL;
    return VMM_FAIL(vm, "mbind");
  }
  mask[(unsigned)node / bits] = 1ul << ((unsigned)node % bits);
  return syscall(SYS_mbind, p, size, MPOL_BIND, mask, 16ul * bits, 0) ? VMM_FAIL(vm, "mbind") : 0;
}

/* `fd`: the file that backs it, or -1; `node`: of the host, or -1. */
static int map_region(vmm_vm *vm, struct vmm_slot *s, uint64_t page_size, int fd, int node) {
  int flags = MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0) | MAP_NORESERVE;
  uint64_t align = s->size >= HUGE_2M ? HUGE_2M : PAGE;
  if (s->flags & VMM_MEM_HUGE) {
    if (page_size < HUGE_2M || (page_size & (page_size - 1))) page_size = HUGE_2M;
    align = page_size;
  }
  if (fd < 0 && s->flags & (VMM_MEM_SHARED | VMM_MEM_HUGE)) {
    unsigned memfd_flags = MFD_CLOEXEC;
    if (s->flags & VMM_MEM_HUGE)
      memfd_flags |= MFD_HUGETLB | ((unsigned)__builtin_ctzll(page_size) << 26 /* MFD_HUGE_SHIFT */);
    s->memfd = fd = memfd_create("vmm-ram", memfd_flags);
    if (fd < 0) return VMM_FAIL(vm, "memfd_create");
    if (ftruncate(fd, (off_t)s->size)) return VMM_FAIL(vm, "ftruncate");
    flags = MAP_SHARED | ((s->flags & (VMM_MEM_HUGE | VMM_MEM_LAZY)) == VMM_MEM_HUGE ? 0 : MAP_NORESERVE);
  } else if (fd >= 0 && s->flags & VMM_MEM_SHARED) {
    s->memfd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (s->memfd < 0) return VMM_FAIL(vm, "fcntl(F_DUPFD_CLOEXEC)");
    flags = MAP_SHARED | MAP_NORESERVE;
  }
  void *p = map_aligned(s, PROT_READ | PROT_WRITE, flags, fd, align);
  if (p == MAP_FAILED) return VMM_FAIL(vm, "mmap");
  s->hva = p;
  if (node >= 0) {
    int err = bind_node(vm, p, s->size, node);
    if (err) return err;
  }
  madvise(p, s->size, MADV_DONTDUMP);
  if (s->flags & VMM_MEM_MERGEABLE) madvise(p, s->size, MADV_MERGEABLE);
  if ((s->flags & VMM_MEM_THP) && !(s->flags & VMM_MEM_HUGE)) madvise(p, s->size, MADV_HUGEPAGE);
  return 0;
}

static int slot_set(vmm_vm *vm, struct vmm_slot *s, uint64_t size) {
  struct kvm_userspace_memory_region r = {
      .slot = s->id,
      .flags = atomic_load(&s->logging) ? KVM_MEM_LOG_DIRTY_PAGES : 0,
      .guest_phys_addr = s->gpa,
      .memory_size = size,
      .userspace_addr = (uintptr_t)s->hva,
  };
  return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r) ? VMM_FAIL(vm, "KVM_SET_USER_MEMORY_REGION") : 0;
}

/* Room for the log of a slot, which is empty and on from now on. */
static int log_slot(struct vmm_slot *s) {
  if (!s->dirty) s->dirty = calloc((s->size / PAGE + 63) / 64, sizeof *s->dirty);
  if (!s->dirty) return -ENOMEM;
  for (uint64_t w = 0; w < (s->size / PAGE + 63) / 64; w++) atomic_store(&s->dirty[w], 0);
  atomic_store(&s->logging, true);
  return 0;
}

static void slot_free(struct vmm_slot *s) {
  if (s->map_base && s->map_base != MAP_FAILED) munmap(s->map_base, s->mapped);
  if (s->memfd >= 0) close(s->memfd);
  free(s->dirty);
  free(s);
}

/* With vm->lock held. */
static void publish(vmm_vm *vm, struct vmm_map *fresh) {
  fresh->older = atomic_load(&vm->map);
  atomic_store(&vm->map, fresh);
}

int vmm_mem_add(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size) {
  return vmm_mem_add_from(vm, gpa, size, flags, page_size, -1, -1);
}

/* A region that is not the guest's yet, nor populated. NULL and *err = -errno on failure. */
struct vmm_slot *vmm_mem_prepare(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd,
                                 int node, int *err) {
  *err = 0;
  if (!size || (gpa | size) % PAGE || gpa + size < gpa) {
    errno = EINVAL;
    *err = VMM_FAIL(vm, "guest memory region");
    return NULL;
  }
  struct vmm_slot *s = calloc(1, sizeof *s);
  if (!s) return *err = -ENOMEM, NULL;
  *s = (struct vmm_slot){.gpa = gpa, .size = size, .memfd = -1, .flags = flags};
  *err = map_region(vm, s, page_size, fd, node);
  if (!*err) return s;
  slot_free(s);
  return NULL;
}

/* Have the host back `len` bytes from `at` on, before the region is placed. Any thread; the VM may do anything
 * meanwhile. */
int vmm_mem_populate(struct vmm_slot *s, uint64_t at, uint64_t len) {
  if (at > s->size || len > s->size - at) return -EINVAL;
  if (!madvise(s->hva + at, len, MADV_POPULATE_WRITE)) return 0;
  if (errno != EINVAL) return -errno;
  for (uint64_t o = at; o < at + len; o += PAGE) ((volatile uint8_t *)s->hva)[o] = 0; /* Linux before 5.14 */
  return 0;
}

void vmm_mem_drop(struct vmm_slot *s) {
  if (s) slot_free(s);
}

int vmm_mem_add_from(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd, int node) {
  int err;
  struct vmm_slot *s = vmm_mem_prepare(vm, gpa, size, flags, page_size, fd, node, &err);
  if (!s) return err;
  if (flags & VMM_MEM_PREFAULT) {
    err = vmm_mem_populate(s, 0, size);
    if (err) vm->failed = "madvise(MADV_POPULATE_WRITE)";
  }
  if (!err) err = vmm_mem_place(vm, s);
  if (err) slot_free(s);
  return err;
}

/* Make it the guest's. -errno: it is the caller's still. */
int vmm_mem_place(vmm_vm *vm, struct vmm_slot *s) {
  uint64_t gpa = s->gpa, size = s->size;
  pthread_mutex_lock(&vm->lock);
  int err = 0;
  struct vmm_map *old = atomic_load(&vm->map);
  uint32_t n = old ? old->n : 0, at = 0;
  for (uint32_t i = 0; i < n; i++) {
    struct vmm_slot *o = old->slot[i];
    if (gpa < o->gpa + o->size && o->gpa < gpa + size) err = -EEXIST;
    if (o->gpa < gpa) at = i + 1;
  }
  struct vmm_map *fresh = err ? NULL : malloc(sizeof *fresh + (n + 1) * sizeof *fresh->slot);
  if (!err && !fresh) err = -ENOMEM;
  if (!err) {
    int id = slot_id(vm);
    s->id = (uint32_t)id;
    if (id < 0) err = VMM_FAIL(vm, "memory slots");
    if (!err && atomic_load(&vm->logging)) err = log_slot(s);
    if (!err) err = slot_set(vm, s, size);
    if (err && id >= 0) vm->slots_used[id / 64] &= ~(1ull << (id % 64));
  }
  if (err) {
    free(fresh);
  } else {
    fresh->n = n + 1;
    for (uint32_t i = 0, j = 0; i <= n; i++) fresh->slot[i] = i == at ? s : old->slot[j++];
    publish(vm, fresh);
  }
  pthread_mutex_unlock(&vm->lock);
  return err;
}

/* The caller has paused the vCPUs and quiesced every loop that may use the region. */
int vmm_mem_del(vmm_vm *vm, uint64_t gpa) {
  pthread_mutex_lock(&vm->lock);
  struct vmm_map *old = atomic_load(&vm->map);
  int err = -ENOENT;
  for (uint32_t i = 0; old && i < old->n; i++) {
    struct vmm_slot *s = old->slot[i];
    if (s->gpa != gpa) continue;
    struct vmm_map *fresh = malloc(sizeof *fresh + old->n * sizeof *fresh->slot);
    err = fresh ? slot_set(vm, s, 0) : -ENOMEM;
    if (err) {
      free(fresh);
      break;
    }
    fresh->n = old->n - 1;
    for (uint32_t j = 0, k = 0; j < old->n; j++)
      if (j != i) fresh->slot[k++] = old->slot[j];
    publish(vm, fresh);
    vm->slots_used[s->id / 64] &= ~(1ull << (s->id % 64));
    slot_free(s);
    break;
  }
  pthread_mutex_unlock(&vm->lock);
  return err;
}

static struct vmm_slot *find(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  struct vmm_map *m = atomic_load_explicit(&vm->map, memory_order_acquire);
  for (uint32_t i = 0; m && i < m->n; i++) {
    struct vmm_slot *s = m->slot[i];
    if (gpa >= s->gpa && gpa - s->gpa < s->size) return len <= s->size - (gpa - s->gpa) ? s : NULL;
  }
  return NULL;
}

void *vmm_mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  struct vmm_slot *s = find(vm, gpa, len);
  return s ? s->hva + (gpa - s->gpa) : NULL;
}

/* Host address of gpa; *len is cut to what is contiguous from there. NULL: not RAM. */
void *vmm_mem_part(vmm_vm *vm, uint64_t gpa, uint64_t *len) {
  struct vmm_slot *s = find(vm, gpa, 1);
  if (!s) return NULL;
  uint64_t left = s->size - (gpa - s->gpa);
  if (*len > left) *len = left;
  return s->hva + (gpa - s->gpa);
}

static void mark(struct vmm_slot *s, uint64_t offset, uint64_t len) {
  for (uint64_t p = offset / PAGE; p <= (offset + len - 1) / PAGE; p++)
    atomic_fetch_or_explicit(&s->dirty[p / 64], 1ull << (p % 64), memory_order_relaxed);
}

/* As vmm_mem_dirty(), for [host, host+len), which vmm_mem() or vmm_mem_part() returned. */
void vmm_mem_dirty_host(vmm_vm *vm, const void *host, uint64_t len) {
  if (!atomic_load_explicit(&vm->logging, memory_order_relaxed) || !len) return;
  struct vmm_map *m = atomic_load_explicit(&vm->map, memory_order_acquire);
  for (uint32_t i = 0; m && i < m->n; i++) {
    struct vmm_slot *s = m->slot[i];
    uint64_t offset = (uint64_t)((const uint8_t *)host - s->hva);
    if ((const uint8_t *)host < s->hva || offset >= s->size) continue;
    if (atomic_load_explicit(&s->logging, memory_order_acquire)) mark(s, offset, len);
    return;
  }
}

/*
 * Have the guest see host memory at gpa: memory of a BAR, a ROM. No RAM: devices do not reach it. What is written to
 * VMM_SLOT_READONLY memory comes to the bus. *slot -1: none yet; size 0: take it away.
 */
int vmm_mem_slot(vmm_vm *vm, int *slot, uint64_t gpa, uint64_t size, void *host, uint32_t flags) {
  pthread_mutex_lock(&vm->lock);
  int err = 0;
  if (*slot < 0 && size) {
    *slot = slot_id(vm);
    if (*slot < 0) err = VMM_FAIL(vm, "memory slots");
  }
  if (!err && *slot >= 0) {
    struct kvm_userspace_memory_region r = {
        .slot = (uint32_t)*slot,
        .flags = size && flags & VMM_SLOT_READONLY ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)host,
    };
    if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r)) err = VMM_FAIL(vm, "KVM_SET_USER_MEMORY_REGION");
    if (!size || err) {
      vm->slots_used[*slot / 64] &= ~(1ull << (*slot % 64));
      *slot = -1;
    }
  }
  pthread_mutex_unlock(&vm->lock);
  return err;
}

/* How many of KVM's memory slots the VM has taken, for RAM and for memory of BARs. */
unsigned vmm_mem_slots(vmm_vm *vm) {
  unsigned n = 0;
  pthread_mutex_lock(&vm->lock);
  for (unsigned i = 0; i < 8; i++) n += (unsigned)__builtin_popcountll(vm->slots_used[i]);
  pthread_mutex_unlock(&vm->lock);
  return n;
}

void vmm_mem_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  struct vmm_slot *s = len ? find(vm, gpa, len) : NULL;
  if (!s || !atomic_load_explicit(&s->logging, memory_order_acquire)) return;
  mark(s, gpa - s->gpa, len);
}

/* What follows may lie over several regions that touch, as two zones of memory do. */
static bool all_ram(vmm_vm *vm, uint64_t gpa, uint64_t size) {
  for (uint64_t part; size; gpa += part, size -= part) {
    part = size;
    if (!vmm_mem_part(vm, gpa, &part)) return false;
  }
  return true;
}

int vmm_mem_load(vmm_vm *vm, uint64_t gpa, int fd, uint64_t offset, uint64_t size) {
  if (!all_ram(vm, gpa, size)) return vm->failed = "load outside of guest memory", -EFAULT;
  while (size) {
    uint64_t part = size > (1u << 30) ? 1u << 30 : size;
    void *p = vmm_mem_part(vm, gpa, &part);
    ssize_t n = pread(fd, p, part, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return VMM_FAIL(vm, "pread");
    if (!n) return vm->failed = "the file ended early", -ENODATA;
    vmm_mem_dirty(vm, gpa, (uint64_t)n);
    gpa += (uint64_t)n, offset += (uint64_t)n, size -= (uint64_t)n;
  }
  return 0;
}

int vmm_mem_write(vmm_vm *vm, uint64_t gpa, const void *data, uint64_t size) {
  const uint8_t *from = data;
  if (!all_ram(vm, gpa, size)) return vm->failed = "write outside of guest memory", -EFAULT;
  while (size) {
    uint64_t part = size;
    void *p = vmm_mem_part(vm, gpa, &part);
    memcpy(p, from, part);
    vmm_mem_dirty(vm, gpa, part);
    gpa += part, from += part, size -= part;
  }
  return 0;
}

/* The memfd behind a shared region and the offset of `gpa` in it, for processes that map guest memory. */
int vmm_mem_fd(vmm_vm *vm, uint64_t gpa, uint64_t *offset) {
  struct vmm_slot *s = find(vm, gpa, 1);
  if (!s || s->memfd < 0) return -ENOENT;
  *offset = gpa - s->gpa;
  return s->memfd;
}

/* Start or stop logging writes, the guest's and the VMM's. */
int vmm_mem_log(vmm_vm *vm, int on) {
  pthread_mutex_lock(&vm->lock);
  struct vmm_map *m = atomic_load(&vm->map);
  int err = 0;
  if (on) atomic_store(&vm->logging, true);
  for (uint32_t i = 0; m && i < m->n && !err; i++) {
    struct vmm_slot *s = m->slot[i];
    if (atomic_load(&s->logging) == (bool)on) continue;
    if (on) err = log_slot(s);
    if (!on) atomic_store(&s->logging, false);
    if (!err) err = slot_set(vm, s, s->size);
  }
  if (!on) atomic_store(&vm->logging, false);
  pthread_mutex_unlock(&vm->lock);
  return err;
}

/* Fetch and clear the log of the region at `gpa`: one bit per 4 KiB page. Returns the number of pages. */
int64_t vmm_mem_fetch_log(vmm_vm *vm, uint64_t gpa, uint64_t *bitmap, uint64_t words) {
  struct vmm_slot *s = find(vm, gpa, 1);
  if (!s || s->gpa != gpa || !atomic_load(&s->logging)) return -ENOENT;
  uint64_t need = (s->size / PAGE + 63) / 64;
  if (words < need) return -ENOSPC;
  struct kvm_dirty_log log = {.slot = s->id, .dirty_bitmap = bitmap};
  if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log)) return VMM_FAIL(vm, "KVM_GET_DIRTY_LOG");
  for (uint64_t i = 0; i < need; i++) bitmap[i] |= atomic_exchange(&s->dirty[i], 0);
  return (int64_t)(s->size / PAGE);
}

void vmm_mem_free(vmm_vm *vm) {
  struct vmm_map *m = atomic_exchange(&vm->map, NULL);
  for (uint32_t i = 0; m && i < m->n; i++) slot_free(m->slot[i]);
  for (struct vmm_map *older; m; m = older) {
    older = m->older;
    free(m);
  }
}
