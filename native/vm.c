/* SPDX-License-Identifier: Apache-2.0 */
/* The VM object: creation, events to the control plane, log, poll set of the main thread, the API table. */
#include "native.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

uint64_t vmm_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void vmm_vm_free(vmm_vm *vm) {
  if (!vm) return;
  vmm_vcpus_stop(vm);
  vmm_pci_segments_free(vm);
  vmm_pci_hotplug_free(vm);
  vmm_ged_free(vm);
  vmm_loops_free(vm);
  vmm_vcpus_free(vm);
  if (vm->fd >= 0) close(vm->fd);
  vmm_counters_free(vm);
  vmm_mem_free(vm);
  vmm_bus_free(vm);
  vmm_irq_free(vm);
  if (vm->kvm_fd >= 0) close(vm->kvm_fd);
  if (vm->event_fd >= 0) close(vm->event_fd);
  if (vm->poll_fd >= 0) close(vm->poll_fd);
  pthread_mutex_destroy(&vm->lock);
  pthread_mutex_destroy(&vm->bus_lock);
  pthread_mutex_destroy(&vm->event_lock);
  pthread_cond_destroy(&vm->cond);
  free(vm);
}

/* Open `device` (/dev/kvm) and make a VM of `type` (KVM API §4.2: 0, or what the architecture has to say). NULL: *err
 * is the errno, *what the call. */
vmm_vm *vmm_vm_new(const char *device, unsigned long type, int *err, const char **what) {
  vmm_vm *vm = calloc(1, sizeof *vm);
  if (!vm) return *err = ENOMEM, *what = "malloc", NULL;
  vm->kvm_fd = vm->fd = vm->event_fd = vm->poll_fd = -1;
  vm->log_level = 6;
  pthread_mutex_init(&vm->lock, NULL);
  pthread_mutex_init(&vm->bus_lock, NULL);
  pthread_mutex_init(&vm->event_lock, NULL);
  pthread_cond_init(&vm->cond, NULL);
  int rc = vmm_irq_init(vm);
  if (!rc) rc = vmm_bus_init(vm);
  if (rc) {
    *what = "malloc";
    goto fail;
  }
  *what = "open of the KVM device";
  vm->kvm_fd = open(device, O_RDWR | O_CLOEXEC);
  if (vm->kvm_fd < 0) goto fail_errno;
  *what = "KVM_GET_API_VERSION";
  int version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
  if (version < 0) goto fail_errno;
  if (version != KVM_API_VERSION) {
    rc = -ENOTSUP;
    goto fail;
  }
  const char *missing = vmm_missing_cap(vm->kvm_fd);
  if (missing) {
    *what = missing;
    rc = -ENOTSUP;
    goto fail;
  }
  *what = "KVM_CREATE_VM";
  do
    vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, type);
  while (vm->fd < 0 && errno == EINTR);
  if (vm->fd < 0) goto fail_errno;
  *what = "KVM_GET_VCPU_MMAP_SIZE";
  vm->run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (vm->run_size < 0) goto fail_errno;
  *what = "eventfd";
  vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (vm->event_fd < 0) goto fail_errno;
  *what = "epoll_create1";
  vm->poll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (vm->poll_fd < 0 || vmm_poll_add(vm, vm->event_fd, EPOLLIN)) goto fail_errno;
  return vm;
fail_errno:
  rc = -errno;
fail:
  vmm_vm_free(vm);
  *err = -rc;
  return NULL;
}

const char *vmm_failed(vmm_vm *vm) {
  return vm->failed ? vm->failed : "";
}

const char *vmm_error_text(vmm_vm *vm) {
  return vm->error;
}

/* --- events --- */

static bool terminal(uint32_t kind) {
  return kind == VMM_EVENT_SHUTDOWN || kind == VMM_EVENT_RESET || kind == VMM_EVENT_TRIPLE ||
         kind == VMM_EVENT_ERROR || kind == VMM_EVENT_EXIT || kind == VMM_EVENT_QUIT;
}

void vmm_post_event(vmm_vm *vm, uint32_t kind, uint64_t arg) {
  struct vmm_event e = {kind, arg, vmm_now_ns()};
  bool last = terminal(kind), wake = true;
  pthread_mutex_lock(&vm->event_lock);
  /* A guest can post any number; the last quarter is kept for what ends the VM, which it posts once. */
  unsigned room = last ? VMM_EVENTS : VMM_EVENTS * 3 / 4;
  if (last && atomic_load(&vm->halted)) {
    wake = false;
  } else if (vm->event_n >= room) {
    vm->events_lost++;
    wake = false; /* the reader has not got to the end yet */
    if (kind == VMM_EVENT_DEVICE || kind == VMM_EVENT_HOTPLUG) vm->devices_lost = true;
  } else {
    vm->event[(vm->event_head + vm->event_n++) % VMM_EVENTS] = e;
    if (last) atomic_store(&vm->halted, true);
  }
  pthread_mutex_unlock(&vm->event_lock);
  if (last) vmm_vcpus_halt(vm);
  if (wake && eventfd_write(vm->event_fd, 1)) return; /* full counter: the reader is awake already */
}

/* 1 and *out, or 0 when there is none. */
int vmm_event_next(vmm_vm *vm, struct vmm_event *out) {
  int got = 0;
  pthread_mutex_lock(&vm->event_lock);
  if (vm->event_n) {
    *out = vm->event[vm->event_head];
    vm->event_head = (vm->event_head + 1) % VMM_EVENTS;
    vm->event_n--;
    got = 1;
  } else if (vm->devices_lost) { /* which ones is not known: all look */
    vm->devices_lost = false;
    *out = (struct vmm_event){VMM_EVENT_DEVICE, 0, vmm_now_ns()};
    got = 1;
  } else {
    eventfd_t v;
    (void)!eventfd_read(vm->event_fd, &v);
  }
  pthread_mutex_unlock(&vm->event_lock);
  return got;
}

/* --- the main thread's poll set --- */

int vmm_poll_add(vmm_vm *vm, int fd, uint32_t events) {
  struct epoll_event e = {.events = events, .data.fd = fd};
  return epoll_ctl(vm->poll_fd, EPOLL_CTL_ADD, fd, &e) ? VMM_FAIL(vm, "epoll_ctl") : 0;
}

int vmm_poll_del(vmm_vm *vm, int fd) {
  return epoll_ctl(vm->poll_fd, EPOLL_CTL_DEL, fd, NULL) ? VMM_FAIL(vm, "epoll_ctl") : 0;
}

/* The next ready fd: vm->event_fd as 0 with *events 0, -ETIMEDOUT after timeout_ms (-1: never). */
int vmm_poll_wait(vmm_vm *vm, int timeout_ms, uint32_t *events) {
  struct epoll_event e;
  int n = epoll_wait(vm->poll_fd, &e, 1, timeout_ms);
  if (n < 0) return -errno;
  if (!n) return -ETIMEDOUT;
  bool own = e.data.fd == vm->event_fd;
  *events = own ? 0 : e.events;
  return own ? 0 : e.data.fd;
}

/* --- log --- */

void vmm_set_log_level(vmm_vm *vm, int level) {
  vm->log_level = level;
}

void vmm_log(vmm_vm *vm, int level, const char *fmt, ...) {
  static const char *const name[] = {"error", "error", "error", "error", "warning", "notice", "info", "debug"};
  if (level > vm->log_level) return;
  /* What a guest can cause must not fill the host's disk: 20 lines at once, then 5 a second. */
  uint64_t now = vmm_now_ns();
  pthread_mutex_lock(&vm->event_lock);
  uint64_t earned = (now - vm->log_time) / 200000000u;
  if (earned) {
    vm->log_tokens = vm->log_tokens + earned > 20 ? 20 : vm->log_tokens + earned;
    vm->log_time = now;
  }
  bool go = vm->log_tokens > 0;
  if (go) vm->log_tokens--;
  pthread_mutex_unlock(&vm->event_lock);
  if (!go) return;
  char line[512];
  int n = snprintf(line, sizeof line, "vmm: %s: ", name[level < 0 ? 0 : level > 7 ? 7 : level]);
  va_list ap;
  va_start(ap, fmt);
  n += vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
  va_end(ap);
  if (n > (int)sizeof line - 2) n = sizeof line - 2;
  line[n++] = '\n';
  (void)!write(STDERR_FILENO, line, (size_t)n);
}

uint64_t vmm_first_run(vmm_vm *vm) {
  return atomic_load(&vm->t_first_run);
}

uint64_t vmm_first_exit(vmm_vm *vm) {
  return atomic_load(&vm->t_first_exit);
}

static int get_kvm_fd(vmm_vm *vm) {
  return vm->kvm_fd;
}

static int get_vm_fd(vmm_vm *vm) {
  return vm->fd;
}

const struct vmm_api vmm_api_table = {
    .magic = VMM_API_MAGIC,
    .major = VMM_API_MAJOR,
    .minor = VMM_API_MINOR,
    .size = sizeof(struct vmm_api),
    .bus_add = vmm_bus_add,
    .bus_del = vmm_bus_del,
    .mem = vmm_mem,
    .mem_dirty = vmm_mem_dirty,
    .irqfd_open = vmm_irqfd_open,
    .irqfd_close = vmm_irqfd_close,
    .irq_level = vmm_irq_level,
    .ioeventfd = vmm_ioeventfd,
    .loop = vmm_loop_get,
    .loop_add = vmm_loop_add,
    .loop_mod = vmm_loop_mod,
    .loop_del = vmm_loop_del,
    .chardev_open = vmm_chardev_open,
    .chardev_write = vmm_chardev_write,
    .chardev_room = vmm_chardev_room,
    .chardev_kick = vmm_chardev_kick,
    .chardev_close = vmm_chardev_close,
    .post_event = vmm_post_event,
    .log = vmm_log,
    .now_ns = vmm_now_ns,
    .kvm_fd = get_kvm_fd,
    .vm_fd = get_vm_fd,
    .vcpu_fd = vmm_vcpu_fd,
    .queue_pop = vmm_queue_pop,
    .queue_unpop = vmm_queue_unpop,
    .queue_push = vmm_queue_push,
    .queue_flush = vmm_queue_flush,
    .queue_wait = vmm_queue_wait,
    .queue_quiet = vmm_queue_quiet,
    .queue_fail = vmm_queue_fail,
    .queue_size = vmm_queue_size,
    .queue_features = vmm_queue_features,
    .queue_loop = vmm_queue_loop,
    .queue_handle = vmm_queue_handle,
    .queue_serve = vmm_queue_serve,
    .queue_again = vmm_queue_again,
    .counter = vmm_counter,
    .mem_slot = vmm_mem_slot,
    .ged_notify = vmm_ged_notify,
    .pci_config = vmm_pci_get,
    .queue_config = vmm_queue_config,
};

const struct vmm_api *vmm_api_get(void) {
  return &vmm_api_table;
}
