/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio over PCI (virtio 1.2 §4.1, modern only), without the capability list, which Python writes.
 *
 * Registers are served here on the vCPUs' threads. What changes the life of the device (DRIVER_OK, a reset
 * while it runs, the reset of a queue) is noted and posted to the main thread, which asks vmm_virtio_want(),
 * stops the device (vmm_virtio_quiesce, then its own stop()), settles the change (vmm_virtio_settle: only now
 * does a reset show in device_status) and starts it again (vmm_virtio_start). So a driver that reads status 0
 * knows that nothing of its queues is touched any more.
 */
#include "virtio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { S_DRIVER_OK = 4, S_FEATURES_OK = 8, S_NEEDS_RESET = 64, S_FAILED = 128, S_ALL = 207 };
enum { TURN = 32 /* requests */, SPARE = 8 /* pieces: guest memory need not be in one */ };
enum { NO_VECTOR = 0xffff, ISR_QUEUE = 1, ISR_CONFIG = 2, CFG_LEN = 60 };
enum { /* virtio_pci_common_cfg, §4.1.4.3 */
  DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12,
  CONFIG_MSIX_VECTOR = 16, NUM_QUEUES = 18, DEVICE_STATUS = 20, CONFIG_GENERATION = 21, QUEUE_SELECT = 22,
  QUEUE_SIZE = 24, QUEUE_MSIX_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30, QUEUE_DESC = 32,
  QUEUE_DRIVER = 40, QUEUE_DEVICE = 48, QUEUE_NOTIFY_DATA = 56, QUEUE_RESET = 58,
};

static void post(vmm_virtio *v) {
  if (!atomic_exchange(&v->posted, true)) vmm_post_event(v->vm, VMM_EVENT_DEVICE, v->token);
}

/* --- interrupts --- */

static void raise_isr(vmm_virtio *v, uint8_t bit, uint16_t vector) {
  int err = vmm_pci_msix_signal(v->pci, vector);
  if (err != -ENODEV) return; /* MSI-X is on: sent, or to no vector, which means no interrupt */
  pthread_mutex_lock(&v->isr_lock);
  v->isr |= bit;
  vmm_pci_intx(v->pci, 1);
  pthread_mutex_unlock(&v->isr_lock);
}

static void queue_interrupt(vmm_queue *q) {
  raise_isr(q->virtio, ISR_QUEUE, __atomic_load_n(&q->vector, __ATOMIC_RELAXED));
}

static uint8_t take_isr(vmm_virtio *v) {
  pthread_mutex_lock(&v->isr_lock);
  uint8_t isr = v->isr;
  v->isr = 0;
  if (isr) vmm_pci_intx(v->pci, 0);
  pthread_mutex_unlock(&v->isr_lock);
  return isr;
}

static void on_call(void *opaque, int fd, uint32_t events) {
  vmm_queue *q = opaque;
  eventfd_t n;
  (void)events;
  if (!eventfd_read(fd, &n)) queue_interrupt(q);
}

/* --- failing --- */

/* With v->lock held. */
static void fail_locked(vmm_virtio *v, const char *why) {
  if (v->status & S_NEEDS_RESET) return;
  snprintf(v->why, sizeof v->why, "%s", why);
  v->status |= S_NEEDS_RESET;
  v->failed = true;
  v->generation++;
  if (v->status & S_DRIVER_OK) raise_isr(v, ISR_CONFIG, v->config_vector);
  post(v);
}

/* NEEDS_RESET (§2.1.2); the main thread hears of it and says so. Any thread. */
void vmm_virtio_fail(vmm_virtio *v, const char *why) {
  pthread_mutex_lock(&v->lock);
  fail_locked(v, why);
  pthread_mutex_unlock(&v->lock);
}

static void queue_broken(vmm_queue *q, const char *why) {
  char line[160];
  snprintf(line, sizeof line, "the driver broke queue %u: %s", q->index, why);
  vmm_virtio_fail(q->virtio, line);
}

void vmm_queue_fail(vmm_queue *q, const char *why) {
  vmm_virtio_fail(q->virtio, why);
}

const char *vmm_virtio_why(vmm_virtio *v) {
  return v->why;
}

/* --- resetting --- */

static void queue_end(vmm_queue *q) {
  if (q->size) vmm_pci_bar_ioeventfd(q->virtio->pci, 0, VMM_VIRTIO_NOTIFY + 4ull * q->index, 0, q->eventfd, 0);
  if (q->kick_fd >= 0) close(q->kick_fd);
  if (q->call_fd >= 0) {
    vmm_loop_del(q->virtio->call_loop, q->call_fd);
    close(q->call_fd);
  }
  q->kick_fd = q->call_fd = -1;
  free(q->iov);
  q->iov = NULL;
  atomic_store(&q->again, false);
  q->size = 0;
  q->why = "not active";
  q->want = q->max;
  q->vector = NO_VECTOR;
  q->enabled = q->resetting = false;
  memset(q->at, 0, sizeof q->at);
  eventfd_t old;
  (void)!eventfd_read(q->eventfd, &old); /* a kick of the old activation is none of the new one's */
}

/* With v->lock held; the device is stopped. */
static void reset_all(vmm_virtio *v) {
  for (unsigned i = 0; i < v->n; i++) queue_end(&v->queue[i]);
  v->status = 0;
  v->accepted = 0;
  v->device_select = v->driver_select = v->queue_select = 0;
  v->config_vector = NO_VECTOR;
  v->resetting = v->live = v->failed = false;
  for (uint32_t i = 0; i < v->config_len; i++) { /* what the driver wrote is forgotten */
    uint8_t mask = v->config_mask[i], before = v->config[i];
    v->config[i] = (uint8_t)((before & ~mask) | (v->config_first[i] & mask));
    if (v->config[i] != before) v->config_written = true;
  }
  if (v->config_written && v->config_watched) post(v);
  take_isr(v);
}

/* --- common configuration --- */

static bool features_ok(vmm_virtio *v) {
  uint64_t f = v->accepted;
  if (f & ~v->offered || !(f >> VMM_F_VERSION_1 & 1)) return false;
  for (unsigned i = 0; i < v->n_requires; i++)
    if (f >> v->require[i].bit & 1 && (f & v->require[i].mask) != v->require[i].mask) return false;
  return !v->check_features || v->check_features(v->check_opaque, f);
}

static void set_status(vmm_virtio *v, uint8_t value) {
  if (v->resetting) return;
  if (!value) {
    if (v->live) {
      v->resetting = true;
      post(v);
    } else {
      reset_all(v);
    }
    return;
  }
  uint8_t fresh = value & S_ALL & (uint8_t)~v->status & (uint8_t)~S_NEEDS_RESET;
  if (fresh & S_FEATURES_OK && !features_ok(v)) fresh &= (uint8_t)~S_FEATURES_OK;
  if (fresh & S_DRIVER_OK && !((v->status | fresh) & S_FEATURES_OK)) fresh &= (uint8_t)~S_DRIVER_OK; /* §3.1.1 */
  v->status |= fresh;
  if (fresh & (S_DRIVER_OK | S_FAILED)) post(v);
}

static uint32_t half(uint64_t v, uint32_t select) {
  return select == 0 ? (uint32_t)v : select == 1 ? (uint32_t)(v >> 32) : 0;
}

static void set_half(uint64_t *v, uint32_t select, uint32_t value) {
  if (select == 0) *v = (*v & ~0xffffffffull) | value;
  if (select == 1) *v = (*v & 0xffffffffull) | (uint64_t)value << 32;
}

static void common_read(vmm_virtio *v, uint64_t at, void *data, uint32_t size) {
  uint8_t c[CFG_LEN + 8] = {0};
  vmm_store(c + DEVICE_FEATURE_SELECT, 4, v->device_select);
  vmm_store(c + DEVICE_FEATURE, 4, half(v->offered, v->device_select));
  vmm_store(c + DRIVER_FEATURE_SELECT, 4, v->driver_select);
  vmm_store(c + DRIVER_FEATURE, 4, half(v->accepted, v->driver_select));
  vmm_store(c + CONFIG_MSIX_VECTOR, 2, v->config_vector);
  vmm_store(c + NUM_QUEUES, 2, v->n);
  c[DEVICE_STATUS] = v->status;
  c[CONFIG_GENERATION] = v->generation;
  vmm_store(c + QUEUE_SELECT, 2, v->queue_select);
  if (v->queue_select < v->n) {
    vmm_queue *q = &v->queue[v->queue_select];
    vmm_store(c + QUEUE_SIZE, 2, q->want);
    vmm_store(c + QUEUE_MSIX_VECTOR, 2, q->vector);
    vmm_store(c + QUEUE_ENABLE, 2, q->enabled);
    vmm_store(c + QUEUE_NOTIFY_OFF, 2, q->index);
    vmm_store(c + QUEUE_DESC, 8, q->at[0]);
    vmm_store(c + QUEUE_DRIVER, 8, q->at[1]);
    vmm_store(c + QUEUE_DEVICE, 8, q->at[2]);
    vmm_store(c + QUEUE_RESET, 2, q->resetting);
  } else {
    vmm_store(c + QUEUE_MSIX_VECTOR, 2, NO_VECTOR);
  }
  memset(data, 0, size);
  if (at + size <= sizeof c) memcpy(data, c + at, size);
}

static uint16_t vector_of(vmm_virtio *v, uint64_t value) {
  return value < v->vectors ? (uint16_t)value : NO_VECTOR;
}

static void queue_write(vmm_virtio *v, uint64_t at, uint64_t value, uint32_t size) {
  if (v->queue_select >= v->n || v->resetting) return;
  vmm_queue *q = &v->queue[v->queue_select];
  if (size == 2 && at == QUEUE_MSIX_VECTOR) {
    __atomic_store_n(&q->vector, vector_of(v, value), __ATOMIC_RELAXED);
  } else if (size == 2 && at == QUEUE_RESET) { /* §4.1.4.3.1 */
    if (value != 1 || !(v->accepted >> VMM_F_RING_RESET & 1) || !q->enabled) return;
    q->resetting = true;
    if (!v->live) queue_end(q);
    else post(v);
  } else if (q->enabled || q->resetting) {
    return; /* the rest is fixed from queue_enable on */
  } else if (size == 2 && at == QUEUE_SIZE) {
    if (value && value <= q->max) q->want = (uint16_t)value;
  } else if (size == 2 && at == QUEUE_ENABLE) {
    if (value != 1 || !(v->status & S_FEATURES_OK)) return;
    q->enabled = true;
    if (v->live) post(v); /* again, after queue_reset */
  } else if (size == 8 && at >= QUEUE_DESC && at < QUEUE_NOTIFY_DATA && !(at % 8)) {
    q->at[(at - QUEUE_DESC) / 8] = value;
  } else if (size == 4 && at >= QUEUE_DESC && at < QUEUE_NOTIFY_DATA && !(at % 4)) {
    set_half(&q->at[(at - QUEUE_DESC) / 8], at / 4 % 2, (uint32_t)value);
  }
}

/* A field is written whole or, if it has 64 bits, by halves (§4.1.3.1); anything else changes nothing. */
static void common_write(vmm_virtio *v, uint64_t at, uint64_t value, uint32_t size) {
  if (size == 4 && at == DEVICE_FEATURE_SELECT) {
    v->device_select = (uint32_t)value;
  } else if (size == 4 && at == DRIVER_FEATURE_SELECT) {
    v->driver_select = (uint32_t)value;
  } else if (size == 4 && at == DRIVER_FEATURE) {
    if (!(v->status & S_FEATURES_OK)) set_half(&v->accepted, v->driver_select, (uint32_t)value);
  } else if (size == 2 && at == CONFIG_MSIX_VECTOR) {
    v->config_vector = vector_of(v, value);
  } else if (size == 1 && at == DEVICE_STATUS) {
    set_status(v, (uint8_t)value);
  } else if (size == 2 && at == QUEUE_SELECT) {
    v->queue_select = (uint16_t)value;
  } else {
    queue_write(v, at, value, size);
  }
}

/* --- BAR 0 --- */

static void config_io(vmm_virtio *v, uint64_t at, uint8_t *data, uint32_t size, int is_write) {
  for (uint32_t i = 0; i < size; i++) {
    bool there = at + i < v->config_len;
    if (!is_write) {
      data[i] = there ? v->config[at + i] : 0;
    } else if (there) {
      uint8_t mask = v->config_mask[at + i], old = v->config[at + i];
      v->config[at + i] = (uint8_t)((old & ~mask) | (data[i] & mask));
      if (mask) v->config_written = true;
    }
  }
  if (is_write && v->config_written && v->config_watched) post(v);
}

void vmm_virtio_io(void *opaque, uint64_t at, void *data, uint32_t size, int is_write) {
  vmm_virtio *v = opaque;
  if (at >= VMM_VIRTIO_NOTIFY) { /* only where no ioeventfd takes it: not active, or an emulated instruction */
    uint64_t i = (at - VMM_VIRTIO_NOTIFY) / 4;
    if (is_write && i < v->n) {
      pthread_mutex_lock(&v->lock);
      if (v->queue[i].size && v->live) (void)!eventfd_write(v->queue[i].eventfd, 1);
      pthread_mutex_unlock(&v->lock);
    }
    if (!is_write) memset(data, 0, size);
    return;
  }
  if (at >= VMM_VIRTIO_ISR && at < VMM_VIRTIO_CONFIG) {
    if (is_write) return;
    memset(data, 0, size);
    if (at == VMM_VIRTIO_ISR) *(uint8_t *)data = take_isr(v);
    return;
  }
  pthread_mutex_lock(&v->lock);
  if (at >= VMM_VIRTIO_CONFIG)
    config_io(v, at - VMM_VIRTIO_CONFIG, data, size, is_write);
  else if (is_write)
    common_write(v, at, vmm_load(data, size), size);
  else
    common_read(v, at, data, size);
  pthread_mutex_unlock(&v->lock);
}

/* The window in config space onto BAR 0 (§4.1.4.9): a dword of data, moved when the guest accesses it. */
static void cfg_window(void *opaque, uint32_t at, uint32_t size, int is_write) {
  vmm_virtio *v = opaque;
  if (at >= v->window + 20 || at + size <= v->window + 16) return;
  uint32_t bar = vmm_pci_get(v->pci, v->window + 4, 1), offset = vmm_pci_get(v->pci, v->window + 8, 4);
  uint32_t len = vmm_pci_get(v->pci, v->window + 12, 4);
  if (bar || (len != 1 && len != 2 && len != 4) || offset % len || offset >= VMM_VIRTIO_MSIX) return;
  uint8_t data[4];
  vmm_store(data, 4, vmm_pci_get(v->pci, v->window + 16, 4));
  vmm_virtio_io(v, offset, data, len, is_write);
  if (!is_write) vmm_pci_poke(v->pci, v->window + 16, data, len);
}

/* --- life, on the main thread --- */

/* Queues n, n + 1 … of a group of `group` share a loop; the first group's is `first_loop`, of `loops`. */
vmm_virtio *vmm_virtio_new(vmm_vm *vm, vmm_pci_dev *pci, uint64_t token, unsigned n, const uint16_t *sizes,
                           uint64_t offered, unsigned first_loop, unsigned loops, unsigned group) {
  if (n > VMM_VIRTIO_QUEUES) return NULL;
  vmm_virtio *v = calloc(1, sizeof *v + n * sizeof v->queue[0]);
  if (!v) return NULL;
  v->vm = vm;
  v->pci = pci;
  v->token = token;
  v->n = n;
  v->offered = offered;
  v->config_vector = NO_VECTOR;
  pthread_mutex_init(&v->lock, NULL);
  pthread_mutex_init(&v->isr_lock, NULL);
  for (unsigned i = 0; i < n; i++) {
    vmm_queue *q = &v->queue[i];
    *q = (vmm_queue){.vm = vm, .virtio = v, .index = i, .max = sizes[i], .want = sizes[i], .vector = NO_VECTOR,
                     .kick_fd = -1, .loop_fd = -1, .call_fd = -1, .why = "not active", .interrupt = queue_interrupt,
                     .broken = queue_broken, .loop_index = (first_loop + i / (group ? group : 1)) % (loops ? loops : 1)};
    q->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->eventfd < 0) {
      v->n = i;
      vmm_virtio_free(v);
      return NULL;
    }
  }
  return v;
}

void vmm_virtio_free(vmm_virtio *v) {
  if (!v) return;
  vmm_virtio_quiesce(v);
  for (unsigned i = 0; i < v->n; i++) {
    queue_end(&v->queue[i]);
    close(v->queue[i].eventfd);
  }
  pthread_mutex_destroy(&v->lock);
  pthread_mutex_destroy(&v->isr_lock);
  free(v);
}

/* After the capabilities: how many MSI-X vectors, and where the PCI_CFG capability is. */
void vmm_virtio_place(vmm_virtio *v, unsigned vectors, uint32_t window) {
  v->vectors = vectors;
  v->window = window;
  vmm_pci_on_access(v->pci, cfg_window, v);
}

int vmm_virtio_require(vmm_virtio *v, unsigned bit, uint64_t mask) {
  if (v->n_requires == VMM_VIRTIO_REQUIRES || bit > 63) return -ENOSPC;
  v->require[v->n_requires++] = (struct vmm_virtio_require){bit, mask};
  return 0;
}

void vmm_virtio_check(vmm_virtio *v, vmm_features_fn fn, void *opaque) {
  v->check_opaque = opaque;
  v->check_features = fn;
}

vmm_queue *vmm_virtio_queue(vmm_virtio *v, unsigned i) {
  return i < v->n ? &v->queue[i] : NULL;
}

uint64_t vmm_virtio_features(vmm_virtio *v) {
  pthread_mutex_lock(&v->lock);
  uint64_t f = v->status & S_FEATURES_OK ? v->accepted : 0;
  pthread_mutex_unlock(&v->lock);
  return f;
}

/* What the main thread has to do: VMM_WANT_*. */
int vmm_virtio_want(vmm_virtio *v) {
  atomic_store(&v->posted, false);
  pthread_mutex_lock(&v->lock);
  int want = (v->resetting ? VMM_WANT_HALT : 0) | (v->config_written ? VMM_WANT_CONFIG : 0) |
             (v->failed ? VMM_WANT_FAILED : 0);
  v->config_written = v->failed = false;
  bool runs = v->status & S_DRIVER_OK && !v->resetting && !(v->status & S_NEEDS_RESET);
  if (runs && !v->live) want |= VMM_WANT_START;
  for (unsigned i = 0; i < v->n && v->live; i++) {
    vmm_queue *q = &v->queue[i];
    if (q->resetting) want |= VMM_WANT_HALT;
    if (runs && q->enabled && !q->resetting && !q->size) want |= VMM_WANT_HALT | VMM_WANT_START;
  }
  pthread_mutex_unlock(&v->lock);
  return want;
}

static int queue_go(vmm_virtio *v, vmm_queue *q) {
  if (!q->size) {
    int err = vmm_queue_start(q, v->vm, q->want, v->accepted, q->at[0], q->at[1], q->at[2]);
    if (err) {
      char line[120];
      snprintf(line, sizeof line, "queue %u: its rings are %s", q->index,
               err == -EFAULT ? "not in memory" : "of a size or alignment that cannot be");
      fail_locked(v, line);
      return err;
    }
    vmm_pci_bar_ioeventfd(v->pci, 0, VMM_VIRTIO_NOTIFY + 4ull * q->index, 0, q->eventfd, 1);
  }
  if (q->kick_fd < 0) q->kick_fd = dup(q->eventfd);
  if (q->kick_fd < 0) {
    fail_locked(v, "too many open files");
    return -EMFILE;
  }
  (void)!eventfd_write(q->eventfd, 1); /* what came before we listened */
  return 0;
}

/* Bring the enabled queues to life. -errno: it failed, and the driver has been told; the device must not start. */
int vmm_virtio_start(vmm_virtio *v) {
  pthread_mutex_lock(&v->lock);
  int err = v->resetting || !(v->status & S_DRIVER_OK) || v->status & S_NEEDS_RESET ? -ECANCELED : 0;
  if (!err) v->live = true;
  for (unsigned i = 0; i < v->n && !err; i++)
    if (v->queue[i].enabled && !v->queue[i].resetting) err = queue_go(v, &v->queue[i]);
  pthread_mutex_unlock(&v->lock);
  return err;
}

/* No handler of a queue in C runs when this returns. */
void vmm_virtio_quiesce(vmm_virtio *v) {
  for (unsigned i = 0; i < v->n; i++) {
    vmm_queue *q = &v->queue[i];
    if (q->loop_fd < 0) continue;
    vmm_loop_del(q->loop, q->loop_fd);
    close(q->loop_fd);
    q->loop_fd = -1;
  }
}

/* The device has stopped: carry out the reset, of all or of single queues, that it was stopped for. */
void vmm_virtio_settle(vmm_virtio *v) {
  pthread_mutex_lock(&v->lock);
  if (v->resetting)
    reset_all(v);
  else
    for (unsigned i = 0; i < v->n; i++)
      if (v->queue[i].resetting) queue_end(&v->queue[i]);
  pthread_mutex_unlock(&v->lock);
}

/* --- queues, for the device --- */

/* Edge-triggered: every kick is an edge, and nobody need read the count (a system call less for each). */
static void on_kick(void *opaque, int fd, uint32_t events) {
  vmm_queue *q = opaque;
  (void)fd, (void)events;
  vmm_queue_kicked(q);
  q->fn(q->opaque, q);
}

/* From the queue's thread: a handler was woken. */
void vmm_queue_kicked(vmm_queue *q) {
  if (!atomic_exchange(&q->again, false)) vmm_queue_count(q, VMM_COUNT_KICKS, 1);
}

void vmm_queue_again(vmm_queue *q) {
  atomic_store(&q->again, true);
  (void)!eventfd_write(q->eventfd, 1);
}

/* A turn: some requests, however many there are. */
static void serve(void *opaque, vmm_queue *q) {
  struct vmm_chain chain;
  unsigned left = TURN;
  (void)opaque;
  do {
    int got = 0;
    while (left && (got = vmm_queue_pop(q, &chain, q->iov, q->cap)) > 0) {
      int64_t done = q->request(q->request_opaque, q, &chain, q->iov);
      if (done == VMM_REQUEST_LATER) {
        vmm_queue_unpop(q, &chain);
        vmm_queue_flush(q);
        vmm_queue_quiet(q); /* a kick would not help */
        return;
      }
      if (done >= 0) vmm_queue_push(q, &chain, q->iov, (uint32_t)done);
      left = atomic_load(&q->again) ? 0 : left - 1;
    }
    vmm_queue_flush(q);
    if (got < 0) return;
    if (!left) {
      vmm_queue_again(q);
      return;
    }
  } while (vmm_queue_wait(q));
}

int vmm_queue_serve(vmm_queue *q, vmm_request_fn fn, void *opaque) {
  if (!q->size || q->loop_fd >= 0) return -EINVAL;
  q->cap = q->size + SPARE;
  free(q->iov); /* of before a pause */
  q->iov = calloc(q->cap, sizeof *q->iov);
  if (!q->iov) return -ENOMEM;
  q->request = fn;
  q->request_opaque = opaque;
  return vmm_queue_handle(q, serve, NULL);
}

/* VMM_COUNT_*, since the machine was built. Any thread. */
void vmm_queue_counts(vmm_queue *q, uint64_t *out) {
  for (unsigned i = 0; i < VMM_COUNTS; i++) out[i] = __atomic_load_n(&q->count[i], __ATOMIC_RELAXED);
}

vmm_loop *vmm_queue_loop(vmm_queue *q) {
  if (!q->loop) q->loop = vmm_loop_get(q->vm, q->loop_index);
  return q->loop;
}

int vmm_queue_handle(vmm_queue *q, vmm_queue_fn fn, void *opaque) {
  if (!q->size || q->loop_fd >= 0 || !vmm_queue_loop(q)) return -EINVAL;
  q->fn = fn;
  q->opaque = opaque;
  q->loop_fd = dup(q->eventfd);
  if (q->loop_fd < 0) return -errno;
  int err = vmm_loop_add(q->loop, q->loop_fd, EPOLLIN | EPOLLET, on_kick, q);
  if (err) {
    close(q->loop_fd);
    q->loop_fd = -1;
  }
  return err;
}

int vmm_queue_handled(vmm_queue *q) {
  return q->loop_fd >= 0;
}

uint32_t vmm_queue_size(vmm_queue *q) {
  return q->size;
}

uint64_t vmm_queue_features(vmm_queue *q) {
  return q->features;
}

void vmm_queue_addresses(vmm_queue *q, uint64_t *out) {
  memcpy(out, q->at, sizeof q->at);
}

int vmm_queue_kick_fd(vmm_queue *q) {
  return q->kick_fd;
}

/* With MSI-X the vector's own eventfd; without, one that a loop turns into INTx. */
int vmm_queue_call_fd(vmm_queue *q) {
  vmm_virtio *v = q->virtio;
  if (vmm_pci_msix_enabled(v->pci) && q->vector != NO_VECTOR) return vmm_pci_msix_fd(v->pci, q->vector);
  if (q->call_fd >= 0) return q->call_fd;
  v->call_loop = vmm_loop_get(v->vm, 0);
  q->call_fd = v->call_loop ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;
  if (q->call_fd < 0) return VMM_FAIL(v->vm, "eventfd");
  int err = vmm_loop_add(v->call_loop, q->call_fd, EPOLLIN, on_call, q);
  if (!err) return q->call_fd;
  close(q->call_fd);
  return q->call_fd = -1, err;
}

/* Positions as vhost's VHOST_GET_VRING_BASE has them. */
uint32_t vmm_queue_base(vmm_queue *q) {
  if (!(q->features >> VMM_F_PACKED & 1)) return q->next_avail;
  uint32_t avail = q->next_avail | (q->avail_wrap ? 0x8000u : 0), used = q->next_used | (q->used_wrap ? 0x8000u : 0);
  return avail | used << 16;
}

/* Everything before it is done: of a split ring the used index is read back from the guest's memory. */
void vmm_queue_set_base(vmm_queue *q, uint32_t base) {
  if (!q->size) return;
  if (!(q->features >> VMM_F_PACKED & 1)) {
    q->next_avail = (uint16_t)base;
    q->next_used = q->signalled = (uint16_t)base;
    return;
  }
  if ((base & 0x7fff) >= q->size || (base >> 16 & 0x7fff) >= q->size) return;
  q->next_avail = base & 0x7fff;
  q->avail_wrap = base >> 15 & 1;
  q->next_used = q->signalled = base >> 16 & 0x7fff;
  q->used_wrap = q->signalled_wrap = base >> 31;
}

/* --- device configuration --- */

int vmm_virtio_config_init(vmm_virtio *v, const uint8_t *data, uint32_t len, const uint8_t *mask, uint32_t mask_len) {
  if (len > sizeof v->config || mask_len > len) return -EINVAL;
  memcpy(v->config, data, len);
  memcpy(v->config_first, data, len);
  memcpy(v->config_mask, mask, mask_len);
  v->config_len = len;
  return 0;
}

/* Have the main thread hear of what the driver writes there. */
void vmm_virtio_config_watch(vmm_virtio *v) {
  v->config_watched = true;
}

int vmm_virtio_config_set(vmm_virtio *v, uint32_t at, const uint8_t *data, uint32_t len, int notify) {
  if (at > v->config_len || len > v->config_len - at) return -EINVAL;
  pthread_mutex_lock(&v->lock);
  memcpy(&v->config[at], data, len);
  v->generation++;
  bool tell = notify && v->status & S_DRIVER_OK;
  uint16_t vector = v->config_vector;
  pthread_mutex_unlock(&v->lock);
  if (tell) raise_isr(v, ISR_CONFIG, vector);
  return 0;
}

int vmm_queue_config(vmm_queue *q, uint32_t at, const void *data, uint32_t len, int notify) {
  return vmm_virtio_config_set(q->virtio, at, data, len, notify);
}

int vmm_virtio_config_read(vmm_virtio *v, uint8_t *out, uint32_t cap) {
  pthread_mutex_lock(&v->lock);
  uint32_t n = v->config_len < cap ? v->config_len : cap;
  memcpy(out, v->config, n);
  pthread_mutex_unlock(&v->lock);
  return (int)n;
}

/* --- saving --- */

struct saved_queue {
  uint16_t want, vector, next_avail, next_used, signalled;
  uint8_t enabled, live, avail_wrap, used_wrap, signalled_wrap, pad[5];
  uint64_t at[3];
};

struct saved {
  uint32_t version, n, config_len;
  uint8_t status, generation, isr, live;
  uint16_t config_vector, queue_select;
  uint32_t device_select, driver_select, pad;
  uint64_t accepted;
};

size_t vmm_virtio_state_size(vmm_virtio *v) {
  return sizeof(struct saved) + v->n * sizeof(struct saved_queue) + v->config_len;
}

/* The device is stopped. */
void vmm_virtio_save(vmm_virtio *v, uint8_t *out) {
  struct saved s = {.version = 1, .n = v->n, .config_len = v->config_len, .status = v->status,
                    .generation = v->generation, .isr = v->isr, .live = v->live, .config_vector = v->config_vector,
                    .queue_select = v->queue_select, .device_select = v->device_select,
                    .driver_select = v->driver_select, .accepted = v->accepted};
  memcpy(out, &s, sizeof s);
  out += sizeof s;
  for (unsigned i = 0; i < v->n; i++, out += sizeof(struct saved_queue)) {
    vmm_queue *q = &v->queue[i];
    struct saved_queue t = {.want = q->want, .vector = q->vector, .next_avail = q->next_avail,
                            .next_used = q->next_used, .signalled = q->signalled, .enabled = q->enabled,
                            .live = q->size != 0, .avail_wrap = q->avail_wrap, .used_wrap = q->used_wrap,
                            .signalled_wrap = q->signalled_wrap};
    memcpy(t.at, q->at, sizeof t.at);
    memcpy(out, &t, sizeof t);
  }
  memcpy(out, v->config, v->config_len);
}

static int restore_queue(vmm_virtio *v, vmm_queue *q, const struct saved_queue *t, bool live) {
  q->want = t->want && t->want <= q->max ? t->want : q->max;
  q->vector = vector_of(v, t->vector);
  q->enabled = t->enabled;
  memcpy(q->at, t->at, sizeof q->at);
  if (!live || !t->live) return 0;
  if (vmm_queue_start(q, v->vm, q->want, v->accepted, q->at[0], q->at[1], q->at[2])) return -EINVAL;
  if (v->accepted >> VMM_F_PACKED & 1 && (t->next_avail >= q->size || t->next_used >= q->size || t->signalled >= q->size))
    return q->size = 0, -EINVAL;
  q->next_avail = t->next_avail;
  q->next_used = t->next_used;
  q->signalled = t->signalled;
  q->avail_wrap = t->avail_wrap;
  q->used_wrap = t->used_wrap;
  q->signalled_wrap = t->signalled_wrap;
  return vmm_pci_bar_ioeventfd(v->pci, 0, VMM_VIRTIO_NOTIFY + 4ull * q->index, 0, q->eventfd, 1);
}

/* On a device that has not started. Guest memory is in place. -EINVAL: of another device. */
int vmm_virtio_restore(vmm_virtio *v, const uint8_t *in, size_t len) {
  struct saved s;
  if (len != vmm_virtio_state_size(v)) return -EINVAL;
  memcpy(&s, in, sizeof s);
  if (s.version != 1 || s.n != v->n || s.config_len != v->config_len || s.accepted & ~v->offered) return -EINVAL;
  if (s.status & ~S_ALL || (s.status & S_DRIVER_OK && !(s.status & S_FEATURES_OK))) return -EINVAL;
  in += sizeof s;
  pthread_mutex_lock(&v->lock);
  uint64_t before = v->accepted;
  v->accepted = s.accepted;
  if (s.status & S_FEATURES_OK && !features_ok(v)) {
    v->accepted = before;
    pthread_mutex_unlock(&v->lock);
    return -EINVAL;
  }
  v->status = s.status;
  v->generation = s.generation;
  v->config_vector = vector_of(v, s.config_vector);
  v->queue_select = s.queue_select;
  v->device_select = s.device_select;
  v->driver_select = s.driver_select;
  int err = 0;
  for (unsigned i = 0; i < v->n && !err; i++, in += sizeof(struct saved_queue)) {
    struct saved_queue t;
    memcpy(&t, in, sizeof t);
    err = restore_queue(v, &v->queue[i], &t, s.live && s.status & S_DRIVER_OK);
  }
  if (!err) memcpy(v->config, in, v->config_len);
  v->isr = s.isr;
  if (!err && s.isr) vmm_pci_intx(v->pci, 1);
  pthread_mutex_unlock(&v->lock);
  return err;
}

/* A shared mapping for a shared-memory region: of `fd`, or of nothing (-1: zeroed memory). NULL: errno says why. */
void *vmm_shared_map(int fd, uint64_t size) {
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
  return p == MAP_FAILED ? NULL : p;
}

/* Put a file's pages over part of such a mapping. */
int vmm_shared_place(void *at, int fd, uint64_t size) {
  return mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}

void vmm_shared_unmap(void *at, uint64_t size) {
  munmap(at, size);
}
