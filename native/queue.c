/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtqueues, split and packed. Everything that a driver writes into a ring is
 * checked here and nowhere else: each field is read once, each address goes
 * through vmm_mem(), a chain may not be longer than its table. What is wrong
 * breaks the queue (`why` says how) and the device then asks for a reset.
 *
 *   while (vmm_queue_pop(q, &chain, iov, n) > 0) { …; vmm_queue_push(q, &chain, iov, written); }
 *   vmm_queue_flush(q);         // interrupt, if the driver wants one
 *   if (vmm_queue_wait(q)) …    // more came meanwhile: go on; else sleep until the next kick
 *
 * One thread at a time. Public: see vmmcore.h.
 */
#include "queue.h"

#include <string.h>

/* virtio 1.2 §2.7.5, §2.7.7, §2.8.13 */
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4, P_AVAIL = 1 << 7, P_USED = 1 << 15 };
enum { NO_NOTIFY = 1, NO_INTERRUPT = 1 };
enum { EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC };

struct desc { /* a descriptor of either ring, copied out: the driver may change it under us */
  uint64_t addr;
  uint32_t len;
  uint16_t a, b; /* split: flags, next; packed: id, flags */
};

static uint16_t get16(const uint8_t *p) {
  return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void set16(uint8_t *p, uint16_t v) {
  __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

/* Our write before our next read, as the driver sees them. */
static void full_fence(void) {
#ifdef __SANITIZE_THREAD__ /* TSan knows no fences */
  int order = 0;
  __atomic_fetch_add(&order, 1, __ATOMIC_SEQ_CST);
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static struct desc desc_at(const uint8_t *table, uint32_t i) {
  struct desc d;
  memcpy(&d, table + 16ull * i, sizeof d); /* an indirect table may be at any address */
  __asm__ volatile("" ::: "memory");       /* once: what was checked is what is used */
  return d;
}

static int broken(vmm_queue *q, const char *why) {
  q->why = why;
  if (q->broken) q->broken(q, why);
  return -EPROTO;
}

static bool has(const vmm_queue *q, unsigned bit) {
  return q->features >> bit & 1;
}

/* Take up the rings at guest-physical desc, driver (avail) and device (used).
 * -EINVAL: size or alignment (§2.7.2, §2.8.10.1), -EFAULT: not all of it is RAM. */
int vmm_queue_start(vmm_queue *q, vmm_vm *vm, uint32_t size, uint64_t features, uint64_t desc, uint64_t driver,
                    uint64_t device) {
  bool packed = features >> VMM_F_PACKED & 1;
  q->vm = vm;
  q->features = features;
  q->size = 0;
  q->why = "not started";
  if (!size || size > 32768 || (!packed && (size & (size - 1)))) return -EINVAL;
  if (desc % 16 || driver % (packed ? 4 : 2) || device % 4) return -EINVAL;
  q->desc = vmm_mem(vm, desc, 16ull * size);
  q->driver = vmm_mem(vm, driver, packed ? 4 : 6 + 2ull * size);
  q->device = vmm_mem(vm, device, packed ? 4 : 6 + 8ull * size);
  if (!q->desc || !q->driver || !q->device) return -EFAULT;
  q->next_avail = q->next_used = q->signalled = 0;
  q->avail_wrap = q->used_wrap = q->signalled_wrap = true;
  q->pushed = false;
  q->why = NULL;
  q->size = size;
  return 0;
}

/* --- popping --- */

struct walk {
  vmm_queue *q;
  struct vmm_chain *chain;
  struct iovec *iov;
  uint32_t cap;
};

/* One buffer into the iovecs. It may span regions of RAM that touch in the guest but not here. */
static int add_buffer(struct walk *w, uint64_t addr, uint64_t len, bool write) {
  struct vmm_chain *c = w->chain;
  if (!write && c->n_in) return broken(w->q, "a readable buffer behind a writable one"); /* §2.7.4.2 */
  uint64_t *total = write ? &c->in_len : &c->out_len;
  *total += len;
  if (c->in_len + c->out_len > UINT32_MAX) return broken(w->q, "a request of 4 GiB or more"); /* §2.7.5 */
  while (len) {
    uint64_t part = len;
    void *p = vmm_mem_part(w->q->vm, addr, &part);
    if (!p) return broken(w->q, "a buffer outside of memory");
    if (c->n_out + c->n_in == w->cap) return broken(w->q, "a request of too many pieces");
    w->iov[c->n_out + c->n_in] = (struct iovec){p, part};
    *(write ? &c->n_in : &c->n_out) += 1;
    addr += part, len -= part;
  }
  return 0;
}

static uint8_t *indirect(vmm_queue *q, const struct desc *d, uint32_t *n) {
  *n = d->len / 16;
  if (!has(q, VMM_F_INDIRECT)) return broken(q, "an indirect table, not negotiated"), NULL;
  if (!d->len || d->len % 16 || *n > 65535) return broken(q, "an indirect table of a wrong size"), NULL;
  uint8_t *table = vmm_mem(q->vm, d->addr, d->len);
  if (!table) return broken(q, "an indirect table outside of memory"), NULL;
  return table;
}

static int pop_split(struct walk *w) {
  vmm_queue *q = w->q;
  uint16_t ready = (uint16_t)(get16(q->driver + 2) - q->next_avail);
  if (!ready) return 0;
  if (ready > q->size) return broken(q, "an avail index that ran away");
  uint32_t at = get16(q->driver + 4 + 2u * (q->next_avail & (q->size - 1)));
  const uint8_t *table = q->desc;
  uint32_t n = q->size, steps = 0;
  bool inside = false; /* an indirect table: no telling by its address, it may be the ring's own */
  if (at >= n) return broken(q, "a head outside of the table");
  w->chain->id = (uint16_t)at;
  for (;;) {
    struct desc d = desc_at(table, at);
    if (d.a & F_INDIRECT) {
      /* §2.7.5.3.1: not inside another, not with NEXT */
      if (inside || d.a & F_NEXT) return broken(q, "an indirect table in the wrong place");
      if (!(table = indirect(q, &d, &n))) return -EPROTO;
      inside = true;
      at = steps = 0;
      continue;
    }
    int err = add_buffer(w, d.addr, d.len, d.a & F_WRITE);
    if (err) return err;
    if (!(d.a & F_NEXT)) break;
    at = d.b;
    if (at >= n) return broken(q, "a next outside of the table");
    if (++steps >= n) return broken(q, "a chain that loops");
  }
  q->next_avail++;
  return 1;
}

static bool packed_ready(const vmm_queue *q) {
  uint16_t flags = get16(q->desc + 16ull * q->next_avail + 14);
  return !!(flags & P_AVAIL) == q->avail_wrap && !!(flags & P_USED) != q->avail_wrap;
}

static int pop_packed(struct walk *w) {
  vmm_queue *q = w->q;
  if (!packed_ready(q)) return 0;
  uint32_t at = q->next_avail, slots = 0;
  for (;;) {
    struct desc d = desc_at(q->desc, at);
    if (d.b & F_INDIRECT) { /* §2.8.19: alone, and its entries follow each other */
      uint32_t n;
      uint8_t *table = d.b & F_NEXT || slots ? (broken(q, "an indirect table in the wrong place"), NULL)
                                             : indirect(q, &d, &n);
      if (!table) return -EPROTO;
      for (uint32_t i = 0; i < n; i++) {
        struct desc e = desc_at(table, i);
        int err = add_buffer(w, e.addr, e.len, e.b & F_WRITE);
        if (err) return err;
      }
    } else {
      int err = add_buffer(w, d.addr, d.len, d.b & F_WRITE);
      if (err) return err;
    }
    w->chain->id = d.a; /* the last descriptor's counts (§2.8.6) */
    slots++;
    at = at + 1 == q->size ? 0 : at + 1;
    if (!(d.b & F_NEXT)) break;
    if (slots == q->size) return broken(q, "a chain longer than the ring");
  }
  w->chain->slots = (uint16_t)slots;
  if (q->next_avail + slots >= q->size) q->avail_wrap = !q->avail_wrap;
  q->next_avail = (uint16_t)at;
  return 1;
}

/* The next request: 1, its buffers in chain and iov[0 … cap); 0: none; -EPROTO: the driver broke the queue. */
int vmm_queue_pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  if (q->why) return -EPROTO;
  *chain = (struct vmm_chain){.slots = 1};
  struct walk w = {q, chain, iov, cap};
  return has(q, VMM_F_PACKED) ? pop_packed(&w) : pop_split(&w);
}

/* Put back what was popped last. */
void vmm_queue_unpop(vmm_queue *q, const struct vmm_chain *chain) {
  if (!q->size) return;
  if (!has(q, VMM_F_PACKED)) {
    q->next_avail--;
    return;
  }
  uint32_t at = q->next_avail;
  if (at < chain->slots) {
    at += q->size;
    q->avail_wrap = !q->avail_wrap;
  }
  q->next_avail = (uint16_t)(at - chain->slots);
}

/* --- giving back --- */

/* Give a request back, `written` bytes of its writable part filled. The driver sees it from the next flush on. */
void vmm_queue_push(vmm_queue *q, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written) {
  if (!q->size) return;
  vmm_queue_count(q, VMM_COUNT_REQUESTS, 1);
  vmm_queue_count(q, VMM_COUNT_OUT, chain->out_len);
  vmm_queue_count(q, VMM_COUNT_IN, written);
  uint64_t left = written;
  for (uint32_t i = chain->n_out; iov && left && i < chain->n_out + chain->n_in; i++) {
    uint64_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
    vmm_mem_dirty_host(q->vm, iov[i].iov_base, n);
    left -= n;
  }
  bool first = !q->pushed;
  q->pushed = true;
  if (!has(q, VMM_F_PACKED)) {
    uint32_t element[2] = {chain->id, written};
    uint8_t *at = q->device + 4 + 8u * (q->next_used & (q->size - 1));
    memcpy(at, element, sizeof element);
    vmm_mem_dirty_host(q->vm, at, sizeof element);
    q->next_used++;
    return;
  }
  uint8_t *at = q->desc + 16ull * q->next_used;
  memcpy(at + 8, &written, 4);
  memcpy(at + 12, &chain->id, 2);
  uint16_t flags = (uint16_t)((q->used_wrap ? P_AVAIL | P_USED : 0) | (written ? F_WRITE : 0));
  if (first) { /* shown by the flush, and all behind it with it: the driver reads in order */
    q->first = at;
    q->first_flags = flags;
  } else {
    set16(at + 14, flags);
  }
  vmm_mem_dirty_host(q->vm, at, 16);
  uint32_t next = (uint32_t)q->next_used + chain->slots;
  if (next >= q->size) {
    next -= q->size;
    q->used_wrap = !q->used_wrap;
  }
  q->next_used = (uint16_t)next;
}

/* §2.7.10: has the index gone past `event` since `old`? */
static bool passed(uint16_t event, uint16_t now, uint16_t old) {
  return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

static bool wanted_split(vmm_queue *q) {
  uint16_t old = q->signalled;
  q->signalled = q->next_used;
  if (has(q, VMM_F_EVENT_IDX)) return passed(get16(q->driver + 4 + 2u * q->size), q->next_used, old);
  return !(get16(q->driver) & NO_INTERRUPT);
}

static bool wanted_packed(vmm_queue *q) {
  uint16_t old = q->signalled;
  bool wrapped = q->signalled_wrap != q->used_wrap;
  q->signalled = q->next_used;
  q->signalled_wrap = q->used_wrap;
  uint16_t flags = get16(q->driver + 2) & 3, event = get16(q->driver);
  if (flags != EVENT_DESC || !has(q, VMM_F_EVENT_IDX)) return flags != EVENT_DISABLE;
  /* Positions counted from the start of the lap in which `old` lies. */
  uint32_t now = q->next_used + (wrapped ? q->size : 0u), target = event & 0x7fff;
  if ((bool)(event >> 15) != (wrapped ? !q->used_wrap : q->used_wrap)) target += q->size;
  return target >= old && target < now;
}

/* Show the driver what was pushed and interrupt it if it asked for that. 1: interrupted. */
int vmm_queue_flush(vmm_queue *q) {
  if (!q->pushed || !q->size) return 0;
  q->pushed = false;
  bool packed = has(q, VMM_F_PACKED);
  if (packed) {
    set16(q->first + 14, q->first_flags);
    vmm_mem_dirty_host(q->vm, q->first + 14, 2);
  } else {
    set16(q->device + 2, q->next_used);
    vmm_mem_dirty_host(q->vm, q->device, 4);
  }
  full_fence(); /* used before the driver's wish (§2.7.7.2) */
  if (!(packed ? wanted_packed(q) : wanted_split(q))) return 0;
  vmm_queue_count(q, VMM_COUNT_INTERRUPTS, 1);
  if (q->interrupt) q->interrupt(q);
  return 1;
}

/* Ask for a kick with the next request. 1: one is there already. */
int vmm_queue_wait(vmm_queue *q) {
  if (q->why) return 0;
  bool packed = has(q, VMM_F_PACKED);
  if (packed) {
    if (has(q, VMM_F_EVENT_IDX)) set16(q->device, (uint16_t)(q->next_avail | (q->avail_wrap ? 0x8000 : 0)));
    set16(q->device + 2, has(q, VMM_F_EVENT_IDX) ? EVENT_DESC : EVENT_ENABLE);
    vmm_mem_dirty_host(q->vm, q->device, 4);
  } else if (has(q, VMM_F_EVENT_IDX)) {
    uint8_t *avail_event = q->device + 4 + 8u * q->size;
    set16(avail_event, q->next_avail);
    vmm_mem_dirty_host(q->vm, avail_event, 2);
  } else {
    set16(q->device, 0);
    vmm_mem_dirty_host(q->vm, q->device, 2);
  }
  full_fence(); /* our wish before the driver's index */
  return packed ? packed_ready(q) : get16(q->driver + 2) != q->next_avail;
}

/* No kicks until the next vmm_queue_wait(). With EVENT_IDX the split ring says so by an index already passed. */
void vmm_queue_quiet(vmm_queue *q) {
  if (q->why) return;
  bool packed = has(q, VMM_F_PACKED);
  if (!packed && has(q, VMM_F_EVENT_IDX)) return;
  uint8_t *flags = packed ? q->device + 2 : q->device;
  set16(flags, packed ? EVENT_DISABLE : NO_NOTIFY);
  vmm_mem_dirty_host(q->vm, flags, 2);
}
