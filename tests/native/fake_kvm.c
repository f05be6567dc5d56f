/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A KVM without a kernel: linked with -Wl,--wrap=ioctl, it answers the ioctls of
 * the core. Where KVM refuses (overlapping slots, an irqfd assigned twice, an
 * ioeventfd that is there already) so does this one.
 */
#include "harness.h"
#include "guest.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

struct fake_kvm fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int no(int err) {
  errno = err;
  return -1;
}

static void inject(uint32_t gsi) {
  fake.delivered[gsi]++;
}

/* With fake.lock held. The kernel takes an irqfd's count the moment it is written; we do so when asked. */
static void look(struct fake_irqfd *i) {
  eventfd_t count = 0;
  if (eventfd_read(i->fd, &count)) return;
  if (count > i->stale) {
    inject(i->gsi);
    i->stale = 0;
  } else { /* only what was there before it was assigned, and was injected then */
    (void)!eventfd_write(i->fd, count);
  }
}

void fake_deliver(void) {
  pthread_mutex_lock(&fake.lock);
  for (unsigned i = 0; i < FAKE_IRQFDS; i++)
    if (fake.irqfd[i].fd) look(&fake.irqfd[i]);
  pthread_mutex_unlock(&fake.lock);
}

uint64_t fake_messages(uint64_t addr, uint32_t data) {
  uint64_t n = 0;
  fake_deliver();
  for (unsigned i = 0; fake.routing && i < fake.routing->nr; i++) {
    const struct kvm_irq_routing_entry *e = &fake.routing->entries[i];
    if (e->type == KVM_IRQ_ROUTING_MSI && e->u.msi.data == data &&
        (e->u.msi.address_lo | (uint64_t)e->u.msi.address_hi << 32) == addr)
      n += fake.delivered[e->gsi];
  }
  return n;
}

static int irqfd(const struct kvm_irqfd *r) {
  fake.irqfd_calls++;
  struct fake_irqfd *at = NULL, *room = NULL;
  for (unsigned i = 0; i < FAKE_IRQFDS; i++) {
    if (fake.irqfd[i].fd == (int)r->fd) at = &fake.irqfd[i];
    if (!fake.irqfd[i].fd && !room) room = &fake.irqfd[i];
  }
  if (r->flags & KVM_IRQFD_FLAG_DEASSIGN) {
    if (at && at->gsi == r->gsi) {
      look(at);
      *at = (struct fake_irqfd){0};
    }
    return 0;
  }
  if (at) return no(EBUSY);
  if (!room || r->gsi >= VMM_MAX_GSI) return no(EINVAL);
  if (fake.before_irqfd) fake.before_irqfd((int)r->fd);
  *room = (struct fake_irqfd){.fd = (int)r->fd, .gsi = r->gsi};
  eventfd_t count;
  if (!eventfd_read(room->fd, &count)) {
    inject(r->gsi);
    room->stale = count;
    (void)!eventfd_write(room->fd, count);
  }
  return 0;
}

static int ioeventfd(const struct kvm_ioeventfd *r) {
  uint32_t off = KVM_IOEVENTFD_FLAG_DEASSIGN;
  unsigned i = 0;
  while (i < fake.n_ioeventfds &&
         (fake.ioeventfd[i].addr != r->addr || fake.ioeventfd[i].len != r->len || fake.ioeventfd[i].fd != r->fd ||
          fake.ioeventfd[i].flags != (r->flags & ~off)))
    i++;
  if (r->flags & off) {
    if (i == fake.n_ioeventfds) return no(ENOENT);
    fake.ioeventfd[i] = fake.ioeventfd[--fake.n_ioeventfds];
    return 0;
  }
  if (i < fake.n_ioeventfds) return no(EEXIST);
  if (i == FAKE_IOEVENTFDS) return no(ENOSPC);
  fake.ioeventfd[fake.n_ioeventfds++] = (struct fake_ioeventfd){r->addr, r->len, r->flags, r->fd};
  return 0;
}

static int memory_region(const struct kvm_userspace_memory_region *r) {
  if (r->slot >= FAKE_SLOTS || r->guest_phys_addr % 4096 || r->memory_size % 4096 || r->userspace_addr % 4096)
    return no(EINVAL);
  struct kvm_userspace_memory_region *own = &fake.slot[r->slot];
  if (!r->memory_size && !own->memory_size) return no(EINVAL);
  if (r->memory_size && own->memory_size && own->memory_size != r->memory_size) return no(EINVAL);
  for (unsigned i = 0; r->memory_size && i < FAKE_SLOTS; i++) {
    struct kvm_userspace_memory_region *o = &fake.slot[i];
    if (o != own && o->memory_size && r->guest_phys_addr < o->guest_phys_addr + o->memory_size &&
        o->guest_phys_addr < r->guest_phys_addr + r->memory_size)
      return no(EEXIST);
  }
  *own = *r;
  return 0;
}

static int dirty_log(const struct kvm_dirty_log *log) {
  if (log->slot >= FAKE_SLOTS || !(fake.slot[log->slot].flags & KVM_MEM_LOG_DIRTY_PAGES)) return no(ENOENT);
  uint64_t words = (fake.slot[log->slot].memory_size / 4096 + 63) / 64;
  memset(log->dirty_bitmap, 0, words * 8);
  *(uint64_t *)log->dirty_bitmap = fake.guest_dirty;
  fake.guest_dirty = 0;
  return 0;
}

static int routing(const struct kvm_irq_routing *r) {
  fake.routings++;
  size_t len = sizeof *r + r->nr * sizeof r->entries[0];
  free(fake.routing);
  fake.routing = malloc(len);
  CHECK(fake.routing);
  memcpy(fake.routing, r, len);
  return 0;
}

static int answer(unsigned long request, void *arg) {
  switch (request) {
  case KVM_GET_API_VERSION:
    return KVM_API_VERSION;
  case KVM_CREATE_VM:
    fake.vm_type = (unsigned long)arg;
    return eventfd(0, EFD_CLOEXEC);
  case KVM_GET_VCPU_MMAP_SIZE:
    return GUEST_RUN_SIZE;
  case KVM_CHECK_EXTENSION:
    return (long)arg == fake.lacks ? 0 : (long)arg == KVM_CAP_NR_MEMSLOTS ? FAKE_SLOTS : 1;
  case KVM_CREATE_VCPU: {
    uint64_t *had = &fake.vcpus[(uintptr_t)arg / 64 % 4], bit = 1ull << ((uintptr_t)arg % 64);
    if (*had & bit) return no(EEXIST); /* also when its descriptor has been closed */
    *had |= bit;
    int fd = memfd_create("vcpu", MFD_CLOEXEC);
    return fd < 0 || ftruncate(fd, GUEST_RUN_SIZE) ? -1 : fd;
  }
  case KVM_SET_GSI_ROUTING:
    return routing(arg);
  case KVM_IRQFD:
    return irqfd(arg);
  case KVM_IOEVENTFD:
    return ioeventfd(arg);
  case KVM_SET_USER_MEMORY_REGION:
    return memory_region(arg);
  case KVM_GET_DIRTY_LOG:
    return dirty_log(arg);
  case KVM_IRQ_LINE:
    if (fake.n_lines < 64) fake.line[fake.n_lines] = *(struct kvm_irq_level *)arg;
    fake.n_lines++;
    return 0;
  case KVM_CREATE_DEVICE: {
    struct kvm_create_device *d = arg;
    int fd = d->type == KVM_DEV_TYPE_VFIO ? eventfd(0, EFD_CLOEXEC) : no(ENODEV);
    d->fd = (uint32_t)fd;
    return fd < 0 ? -1 : 0;
  }
  case KVM_HAS_DEVICE_ATTR:
    return ((struct kvm_device_attr *)arg)->group == 7 ? 0 : no(ENXIO);
  case KVM_SET_DEVICE_ATTR:
  case KVM_GET_DEVICE_ATTR: {
    const struct kvm_device_attr *a = arg;
    if (a->group != 7 || a->attr > 3) return no(ENXIO);
    uint64_t *mine = &fake.attr[a->attr], *theirs = (uint64_t *)(uintptr_t)a->addr;
    *(request == KVM_SET_DEVICE_ATTR ? mine : theirs) = *(request == KVM_SET_DEVICE_ATTR ? theirs : mine);
    return 0;
  }
  }
  return no(ENOTTY);
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list ap;
  va_start(ap, request);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  if ((request >> 8 & 0xff) != KVMIO) return __real_ioctl(fd, request, arg);
  if (request == KVM_RUN) return guest_run();
  if (request == KVM_NMI) {
    CHECK(vmm_vcpu_self() && vmm_vcpu_self()->fd == fd);
    atomic_fetch_add(&fake.nmis, 1);
    return 0;
  }
  pthread_mutex_lock(&fake.lock);
  int r = request == fake.fail_request ? no(fake.fail_errno) : answer(request, arg);
  pthread_mutex_unlock(&fake.lock);
  return r;
}

vmm_vm *fake_vm(void) {
  int err = 0;
  const char *what = "";
  vmm_vm *vm = vmm_vm_new("/dev/null", 0, &err, &what);
  if (!vm) test_fail_values(__FILE__, __LINE__, what, err, 0);
  return vm;
}

void fake_vm_end(vmm_vm *vm) {
  guest_end_all();
  vmm_vm_free(vm);
  guest_forget();
  free(fake.routing);
  pthread_mutex_t lock = fake.lock;
  memset(&fake, 0, sizeof fake);
  fake.lock = lock;
}
