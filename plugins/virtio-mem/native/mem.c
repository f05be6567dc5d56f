/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio 1.2 §5.15. The whole region is RAM of the VM from the start, but nothing backs what is not plugged: a block
 * costs memory from the first touch on, and gives it back when it is unplugged. Requests run on the queue's loop; what
 * is asked for comes from the main thread.
 */
#define _GNU_SOURCE
#include "mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "vmmcore.h"

enum { REQ_PLUG, REQ_UNPLUG, REQ_UNPLUG_ALL, REQ_STATE };       /* §5.15.6 */
enum { RESP_ACK, RESP_NACK, RESP_BUSY, RESP_ERROR };
enum { STATE_PLUGGED, STATE_UNPLUGGED, STATE_MIXED };
enum { REQ_BYTES = 24, RESP_BYTES = 10 };
enum { CONFIG_USABLE = 32, CONFIG_PLUGGED = 40 };               /* §5.15.4 */
/* Beyond what is asked for, so that the driver can go around blocks that it cannot use. */
#define SLACK (256ull << 20)
#define FILL_BYTES (64ull << 20) /* populated at a time */

struct mem {
  const struct vmm_api *api;
  vmm_vm *vm;
  uint64_t addr, size, block, token;
  uint32_t flags;
  uint8_t *host;
  uint64_t *requests, *refused, *plugs, *unplugs; /* counters */
  uint64_t fill_first, fill_n, filled; /* blocks of the request at the queue's head; its loop only */

  pthread_mutex_t lock;
  uint64_t requested, usable, plugged;
  bool waiting, done;
  uint64_t *map; /* a bit for each block: plugged */
};

static void count(uint64_t *counter, uint64_t n) {
  if (counter) __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static bool is_plugged(const struct mem *m, uint64_t block) {
  return m->map[block / 64] >> (block % 64) & 1;
}

/* How many of `n` blocks are plugged. */
static uint64_t plugged_of(const struct mem *m, uint64_t first, uint64_t n) {
  uint64_t found = 0;
  for (uint64_t i = first; i < first + n; i++) found += is_plugged(m, i);
  return found;
}

/* Give the memory of blocks back to the host; they read as zeros then. */
static int discard(struct mem *m, uint64_t first, uint64_t n) {
  uint64_t at = first * m->block, len = n * m->block;
  int advice = m->flags & MEM_SHARED ? MADV_REMOVE : MADV_DONTNEED;
  if (madvise(m->host + at, len, advice)) return -errno;
  m->api->mem_dirty(m->vm, m->addr + at, len);
  return 0;
}

static void set_plugged(struct mem *m, uint64_t first, uint64_t n, bool plugged) {
  for (uint64_t i = first; i < first + n; i++) {
    uint64_t bit = 1ull << (i % 64);
    if (plugged)
      m->map[i / 64] |= bit;
    else
      m->map[i / 64] &= ~bit;
  }
  uint64_t bytes = n * m->block;
  m->plugged = plugged ? m->plugged + bytes : m->plugged - bytes;
  count(plugged ? m->plugs : m->unplugs, bytes);
}

static int may_plug(const struct mem *m, uint64_t first, uint64_t n) {
  if (plugged_of(m, first, n)) return RESP_ERROR;
  if (n * m->block > m->requested || m->plugged > m->requested - n * m->block) return RESP_NACK;
  return RESP_ACK;
}

static int plug(struct mem *m, uint64_t first, uint64_t n) {
  int type = may_plug(m, first, n);
  if (type == RESP_ACK) set_plugged(m, first, n, true);
  return type;
}

static int unplug(struct mem *m, uint64_t first, uint64_t n) {
  if (plugged_of(m, first, n) != n) return RESP_ERROR;
  if (discard(m, first, n)) return RESP_BUSY;
  set_plugged(m, first, n, false);
  return RESP_ACK;
}

static uint64_t usable_for(const struct mem *m, uint64_t requested) {
  return m->size - requested > SLACK ? requested + SLACK : m->size;
}

static int unplug_all(struct mem *m) {
  if (discard(m, 0, m->size / m->block)) return RESP_BUSY;
  count(m->unplugs, m->plugged);
  memset(m->map, 0, (m->size / m->block + 63) / 64 * 8);
  m->plugged = 0;
  m->usable = usable_for(m, m->requested); /* the one moment at which it may shrink */
  return RESP_ACK;
}

/* The one check of an address: n is at most 65535, a block at most the region, so that nothing overflows. */
static bool blocks_of(const struct mem *m, const uint8_t *request, uint64_t *first, uint64_t *n) {
  uint64_t addr = vmm_load(request + 8, 8), blocks = m->usable / m->block;
  *n = vmm_load(request + 16, 2);
  if (!*n || addr < m->addr || (addr - m->addr) % m->block) return false;
  *first = (addr - m->addr) / m->block;
  return *first < blocks && *n <= blocks - *first;
}

/* With the lock held. One request, whose bytes are a copy; the answer's type, and for STATE its state. */
static int serve(struct mem *m, const uint8_t *request, uint16_t *state) {
  uint64_t type = vmm_load(request, 2), first, n;
  if (type == REQ_UNPLUG_ALL) return unplug_all(m);
  if (type != REQ_PLUG && type != REQ_UNPLUG && type != REQ_STATE) return RESP_ERROR;
  if (!blocks_of(m, request, &first, &n)) return RESP_ERROR;
  if (type == REQ_PLUG) return plug(m, first, n);
  if (type == REQ_UNPLUG) return unplug(m, first, n);
  uint64_t found = plugged_of(m, first, n);
  *state = found == n ? STATE_PLUGGED : found ? STATE_MIXED : STATE_UNPLUGGED;
  return RESP_ACK;
}

/* What has been populated for a request that is not carried out is given back. */
static void forget_filled(struct mem *m) {
  if (m->filled) discard(m, m->fill_first, m->filled);
  m->filled = m->fill_n = 0;
}

/* Have the memory of what a request plugs (prefault=on), a piece at a time and without the lock: neither the loop nor
 * who asks for the size waits for all of it. 1: it is there, or need not be; 0: there is more to do; -1: the host has
 * not so much. */
static int populate(struct mem *m, const uint8_t *request) {
#ifdef MADV_POPULATE_WRITE
  uint64_t first, n, most = FILL_BYTES > m->block ? FILL_BYTES / m->block : 1;
  if (!(m->flags & MEM_PREFAULT)) return 1;
  pthread_mutex_lock(&m->lock);
  bool plugs = vmm_load(request, 2) == REQ_PLUG && blocks_of(m, request, &first, &n) &&
               may_plug(m, first, n) == RESP_ACK;
  pthread_mutex_unlock(&m->lock);
  if (!plugs) return forget_filled(m), 1;
  if (first != m->fill_first || n != m->fill_n) {
    forget_filled(m);
    m->fill_first = first, m->fill_n = n;
  }
  uint64_t part = n - m->filled < most ? n - m->filled : most;
  if (madvise(m->host + (first + m->filled) * m->block, part * m->block, MADV_POPULATE_WRITE) &&
      errno != EINVAL) { /* Linux before 5.14: at the first touch */
    m->filled += part; /* of which some may be there */
    return forget_filled(m), -1;
  }
  m->filled += part;
  return m->filled == n;
#else
  (void)m, (void)request;
  return 1;
#endif
}

/* Copy `n` bytes between pieces of guest memory and `data`; less where the pieces end. */
static uint32_t copy(const struct iovec *iov, uint32_t pieces, uint8_t *data, uint32_t n, bool to_guest) {
  uint32_t done = 0;
  for (uint32_t i = 0; i < pieces && done < n; i++) {
    uint32_t part = iov[i].iov_len < n - done ? (uint32_t)iov[i].iov_len : n - done;
    if (to_guest)
      memcpy(iov[i].iov_base, data + done, part);
    else
      memcpy(data + done, iov[i].iov_base, part);
    done += part;
  }
  return done;
}

/* What the driver reads of it in the configuration space, before it has the answer. */
static void publish(struct mem *m, vmm_queue *queue, uint64_t usable) {
  uint8_t word[8];
  vmm_store(word, 8, m->plugged);
  m->api->queue_config(queue, CONFIG_PLUGGED, word, 8, 0);
  if (usable == m->usable) return;
  vmm_store(word, 8, m->usable);
  m->api->queue_config(queue, CONFIG_USABLE, word, 8, 0);
}

static int64_t answer(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct mem *m = opaque;
  uint8_t request[REQ_BYTES], response[RESP_BYTES] = {0};
  uint16_t state = 0;
  if (copy(iov, chain->n_out, request, sizeof request, false) < sizeof request) return 0;
  int there = populate(m, request);
  if (!there) {
    m->api->queue_again(queue);
    return VMM_REQUEST_LATER;
  }
  pthread_mutex_lock(&m->lock);
  uint64_t before = m->plugged, usable = m->usable;
  int type = there < 0 ? RESP_BUSY : serve(m, request, &state);
  if (type == RESP_ACK) m->filled = m->fill_n = 0;
  else forget_filled(m); /* less was wanted by the time that all of it was there */
  if (m->plugged != before || m->usable != usable) publish(m, queue, usable);
  bool tell = m->waiting && m->plugged == m->requested;
  if (tell) {
    m->waiting = false;
    m->done = true;
  }
  pthread_mutex_unlock(&m->lock);
  if (tell) m->api->post_event(m->vm, VMM_EVENT_DEVICE, m->token);
  count(type == RESP_ACK ? m->requests : m->refused, 1);
  vmm_store(response, 2, (uint64_t)type);
  vmm_store(response + 8, 2, state);
  return copy(iov + chain->n_out, chain->n_in, response, sizeof response, true);
}

int mem_start(struct mem *m, void *queue) {
  return m->api->queue_serve(queue, answer, m);
}

void mem_reset(struct mem *m) {
  forget_filled(m);
}

int mem_request(struct mem *m, uint64_t bytes, uint64_t *usable) {
  if (bytes > m->size || bytes % m->block) return -EINVAL;
  pthread_mutex_lock(&m->lock);
  m->requested = bytes;
  uint64_t wanted = usable_for(m, bytes);
  if (wanted > m->usable) m->usable = wanted;
  *usable = m->usable;
  m->waiting = m->plugged != bytes;
  m->done = false;
  pthread_mutex_unlock(&m->lock);
  return 0;
}

uint64_t mem_plugged(struct mem *m) {
  pthread_mutex_lock(&m->lock);
  uint64_t plugged = m->plugged;
  pthread_mutex_unlock(&m->lock);
  return plugged;
}

int mem_done(struct mem *m) {
  pthread_mutex_lock(&m->lock);
  bool done = m->done;
  m->done = false;
  pthread_mutex_unlock(&m->lock);
  return done;
}

struct mem *mem_new(const void *api, void *vm, const char *id, uint64_t token, uint64_t addr, uint64_t size,
                    uint64_t block, uint32_t flags, int *error) {
  *error = vmm_api_check(api, 4) ? -ENOTSUP : 0;
  if (!*error && (!block || block & (block - 1) || !size || (addr | size) & (block - 1))) *error = -EINVAL;
  struct mem *m = *error ? NULL : calloc(1, sizeof *m);
  if (!m) {
    if (!*error) *error = -ENOMEM;
    return NULL;
  }
  m->api = api;
  m->vm = vm;
  m->addr = addr, m->size = size, m->block = block, m->token = token, m->flags = flags;
  m->host = m->api->mem(vm, addr, size);
  m->map = calloc((size / block + 63) / 64, 8);
  pthread_mutex_init(&m->lock, NULL);
  m->usable = usable_for(m, 0);
  if (!m->host || !m->map) {
    *error = m->host ? -ENOMEM : -EFAULT;
    mem_free(m);
    return NULL;
  }
  m->requests = m->api->counter(vm, id, "requests");
  m->refused = m->api->counter(vm, id, "refused");
  m->plugs = m->api->counter(vm, id, "plugged_bytes");
  m->unplugs = m->api->counter(vm, id, "unplugged_bytes");
  return m;
}

void mem_free(struct mem *m) {
  if (!m) return;
  if (m->map) forget_filled(m);
  pthread_mutex_destroy(&m->lock);
  free(m->map);
  free(m);
}
