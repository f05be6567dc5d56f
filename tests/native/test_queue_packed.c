/* SPDX-License-Identifier: Apache-2.0 */
/* Packed virtqueues that are well-formed (virtio 1.2 §2.8). The malformed ones: test_queue_bad.c. */
#include "queue_guest.h"

/* The driver's place in the ring. */
struct place {
  unsigned next;
  bool wrap;
};

static unsigned avail_flags(bool wrap) {
  return wrap ? Q_AVAIL : Q_USED;
}

/* A request of n pieces from the driver's place on; the last piece is for the device to write. */
static void add(struct ring *r, struct place *p, unsigned n, uint16_t id) {
  for (unsigned i = 0; i < n; i++) {
    unsigned flags = avail_flags(p->wrap) | (i + 1 < n ? Q_NEXT : Q_WRITE);
    desc(r, p->next, DATA_AT + 16 * i, 16, i + 1 < n ? 0xdead : id, flags);
    if (++p->next == r->q.size) p->next = 0, p->wrap = !p->wrap;
  }
}

static void used_is(struct ring *r, struct place *p, unsigned n, uint16_t id, uint32_t len) {
  uint64_t d = DESC_AT + 16ull * p->next;
  uint16_t flags = peek16(r, d + 14);
  EQ(!!(flags & Q_AVAIL), p->wrap);
  EQ(!!(flags & Q_USED), p->wrap);
  EQ(peek16(r, d + 12), id);
  EQ(!!(flags & Q_WRITE), len != 0);
  if (len) EQ(peek32(r, d + 8), len);
  p->next += n;
  if (p->next >= r->q.size) p->next -= r->q.size, p->wrap = !p->wrap;
}

TEST(packed_a_request_is_its_pieces_in_order) {
  struct ring *r = ring_new(8, Q_PACKED);
  struct place driver = {0, true}, back = {0, true};
  EQ(pop(r), 0);
  add(r, &driver, 3, 77);
  EQ(pop(r), 1);
  EQ(r->chain.id, 77); /* the last descriptor's (§2.8.6) */
  EQ(r->chain.slots, 3);
  EQ(r->chain.n_out, 2);
  EQ(r->chain.n_in, 1);
  PIECE_IS(r, 0, DATA_AT, 16);
  PIECE_IS(r, 2, DATA_AT + 32, 16);
  EQ(pop(r), 0);
  vmm_queue_push(&r->q, &r->chain, r->iov, 9);
  EQ(vmm_queue_flush(&r->q), 1);
  used_is(r, &back, 3, 77, 9);
  EQ(r->interrupts, 1);
  EQ(vmm_queue_flush(&r->q), 0);
  ring_end(r);
}

/* Rings of any size, requests of every length over the end, many laps. */
TEST(packed_laps) {
  for (unsigned size = 1; size <= 7; size++) {
    struct ring *r = ring_new(size, Q_PACKED);
    struct place driver = {0, true}, back = {0, true};
    for (unsigned n = 0; n < 200; n++) {
      unsigned len = 1 + n * 5 % size;
      add(r, &driver, len, (uint16_t)n);
      EQ(pop(r), 1);
      EQ(r->chain.slots, len);
      EQ(r->chain.id, n);
      EQ(pop(r), 0);
      vmm_queue_push(&r->q, &r->chain, r->iov, n & 3);
      vmm_queue_flush(&r->q);
      used_is(r, &back, len, (uint16_t)n, n & 3);
    }
    ring_end(r);
  }
}

TEST(packed_a_full_ring_in_one_request) {
  struct ring *r = ring_new(5, Q_PACKED);
  struct place driver = {0, true}, back = {0, true};
  for (unsigned lap = 0; lap < 4; lap++) {
    add(r, &driver, 5, 3);
    EQ(pop(r), 1);
    EQ(r->chain.slots, 5);
    EQ(pop(r), 0);
    vmm_queue_push(&r->q, &r->chain, r->iov, 1);
    vmm_queue_flush(&r->q);
    used_is(r, &back, 5, 3, 1);
    EQ(pop(r), 0);
  }
  ring_end(r);
}

TEST(packed_only_this_laps_flags_make_available) {
  struct ring *r = ring_new(4, Q_PACKED);
  for (unsigned flags = 0; flags < 4; flags++) {
    unsigned bits = (flags & 1 ? Q_AVAIL : 0) | (flags & 2 ? Q_USED : 0);
    desc(r, 0, DATA_AT, 4, 0, bits);
    EQ(vmm_queue_wait(&r->q), flags == 1);
  }
  struct place driver = {0, true};
  for (unsigned i = 0; i < 4; i++) {
    add(r, &driver, 1, 0);
    EQ(pop(r), 1);
    vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  }
  for (unsigned flags = 0; flags < 4; flags++) { /* the next lap: the other way round */
    unsigned bits = (flags & 1 ? Q_AVAIL : 0) | (flags & 2 ? Q_USED : 0);
    desc(r, 0, DATA_AT, 4, 0, bits);
    EQ(vmm_queue_wait(&r->q), flags == 2);
  }
  ring_end(r);
}

TEST(packed_requests_go_back_in_any_order) {
  struct ring *r = ring_new(6, Q_PACKED);
  struct place driver = {0, true}, back = {0, true};
  struct vmm_chain c[3];
  for (unsigned lap = 0; lap < 5; lap++) {
    static const unsigned lens[] = {1, 3, 2}, order[] = {1, 2, 0};
    for (unsigned i = 0; i < 3; i++) {
      add(r, &driver, lens[i], (uint16_t)(10 + i));
      EQ(pop(r), 1);
      c[i] = r->chain;
    }
    EQ(pop(r), 0);
    for (unsigned i = 0; i < 3; i++) vmm_queue_push(&r->q, &c[order[i]], NULL, 1 + i);
    EQ(vmm_queue_flush(&r->q), 1);
    for (unsigned i = 0; i < 3; i++) used_is(r, &back, lens[order[i]], (uint16_t)(10 + order[i]), 1 + i);
  }
  EQ(r->interrupts, 5);
  ring_end(r);
}

TEST(packed_unpop_puts_back_over_the_end_of_the_ring) {
  for (unsigned start = 0; start < 5; start++) {
    struct ring *r = ring_new(5, Q_PACKED);
    struct place driver = {0, true};
    struct vmm_chain c[2];
    for (unsigned i = 0; i < start; i++) {
      add(r, &driver, 1, 0);
      EQ(pop(r), 1);
      vmm_queue_push(&r->q, &r->chain, r->iov, 0);
    }
    add(r, &driver, 2, 1);
    add(r, &driver, 3, 2);
    for (unsigned turn = 0; turn < 3; turn++) {
      for (unsigned i = 0; i < 2; i++) {
        EQ(pop(r), 1);
        EQ(r->chain.id, i + 1);
        c[i] = r->chain;
      }
      EQ(pop(r), 0);
      vmm_queue_unpop(&r->q, &c[1]);
      vmm_queue_unpop(&r->q, &c[0]);
    }
    ring_end(r);
  }
}

TEST(packed_an_indirect_table_is_its_entries) {
  struct ring *r = ring_new(4, Q_PACKED | Q_TABLES);
  entry(r, 0, DATA_AT, 8, 0, 0);
  entry(r, 1, DATA_AT + 8, 8, 5, Q_WRITE | Q_NEXT | Q_AVAIL); /* §2.8.19: only WRITE counts in a table */
  entry(r, 2, DATA_AT + 16, 8, 0, Q_WRITE);
  desc(r, 0, TABLE_AT, 48, 9, Q_INDIRECT | Q_AVAIL);
  EQ(pop(r), 1);
  EQ(r->chain.id, 9);
  EQ(r->chain.slots, 1);
  EQ(r->chain.n_out, 1);
  EQ(r->chain.n_in, 2);
  PIECE_IS(r, 2, DATA_AT + 16, 8);
  ring_end(r);
}

/* --- suppression --- */

TEST(packed_interrupts_as_the_flags_say) {
  for (unsigned flags = 0; flags < 2; flags++)
    for (unsigned events = 0; events < 2; events++) {
      struct ring *r = ring_new(4, Q_PACKED | (events ? Q_EVENTS : 0));
      struct place driver = {0, true};
      poke16(r, DRIVER_AT + 2, (uint16_t)(flags == 0 ? Q_ENABLE : Q_DISABLE));
      add(r, &driver, 1, 0);
      EQ(pop(r), 1);
      vmm_queue_push(&r->q, &r->chain, r->iov, 0);
      EQ(vmm_queue_flush(&r->q), flags == 0);
      ring_end(r);
    }
}

/* All of it: where the device is, how many it gives back at once, which descriptor the driver waits for. */
TEST(packed_event_offset_decides_about_interrupts) {
  enum { SIZE = 5 };
  for (unsigned start = 0; start < 2 * SIZE; start++)
    for (unsigned count = 1; count <= SIZE; count++)
      for (unsigned wish = 0; wish < 2 * SIZE; wish++) { /* counted in laps of the two wrap counters */
        struct ring *r = ring_new(SIZE, Q_PACKED | Q_EVENTS);
        struct place driver = {0, true};
        poke16(r, DRIVER_AT + 2, Q_DISABLE);
        for (unsigned i = 0; i < start; i++) {
          add(r, &driver, 1, 0);
          EQ(pop(r), 1);
          vmm_queue_push(&r->q, &r->chain, r->iov, 0);
          EQ(vmm_queue_flush(&r->q), 0);
        }
        poke16(r, DRIVER_AT, (uint16_t)(wish % SIZE | (wish < SIZE ? 0x8000 : 0)));
        poke16(r, DRIVER_AT + 2, Q_DESC);
        for (unsigned i = 0; i < count; i++) {
          add(r, &driver, 1, 0);
          EQ(pop(r), 1);
          vmm_queue_push(&r->q, &r->chain, r->iov, 0);
        }
        bool wanted = false;
        for (unsigned i = 0; i < count; i++) wanted |= (start + i) % (2 * SIZE) == wish;
        EQ(vmm_queue_flush(&r->q), wanted);
        ring_end(r);
      }
}

/* Given back in one flush, shown by it: the driver sees all of them or none. */
TEST(packed_nothing_is_seen_before_the_flush) {
  struct ring *r = ring_new(6, Q_PACKED);
  struct place driver = {0, true}, back = {0, true};
  for (unsigned lap = 0; lap < 6; lap++) {
    struct vmm_chain c[3];
    for (unsigned i = 0; i < 3; i++) {
      add(r, &driver, 1 + i % 2, (uint16_t)i);
      EQ(pop(r), 1);
      c[i] = r->chain;
    }
    for (unsigned i = 0; i < 3; i++) vmm_queue_push(&r->q, &c[i], NULL, 1);
    uint16_t flags = peek16(r, DESC_AT + 16ull * back.next + 14);
    CHECK(!!(flags & Q_AVAIL) != !!(flags & Q_USED)); /* still available */
    EQ(vmm_queue_flush(&r->q), 1);
    for (unsigned i = 0; i < 3; i++) used_is(r, &back, 1 + i % 2, (uint16_t)i, 1);
  }
  ring_end(r);
}

TEST(packed_wait_asks_for_a_kick) {
  for (unsigned events = 0; events < 2; events++) {
    struct ring *r = ring_new(3, Q_PACKED | (events ? Q_EVENTS : 0));
    struct place driver = {0, true};
    for (unsigned n = 0; n < 8; n++) {
      vmm_queue_quiet(&r->q);
      EQ(peek16(r, DEVICE_AT + 2), Q_DISABLE);
      EQ(vmm_queue_wait(&r->q), 0);
      EQ(peek16(r, DEVICE_AT + 2), events ? Q_DESC : Q_ENABLE);
      if (events) EQ(peek16(r, DEVICE_AT), driver.next | (driver.wrap ? 0x8000 : 0));
      add(r, &driver, 1, 0);
      EQ(vmm_queue_wait(&r->q), 1);
      EQ(pop(r), 1);
      vmm_queue_push(&r->q, &r->chain, r->iov, 0);
    }
    ring_end(r);
  }
}

TEST(packed_what_the_device_writes_is_marked_dirty) {
  struct ring *r = ring_new(4, Q_PACKED);
  struct place driver = {0, true};
  EQ(vmm_mem_log(r->vm, 1), 0);
  add(r, &driver, 2, 0);
  EQ(pop(r), 1);
  vmm_queue_push(&r->q, &r->chain, r->iov, 1);
  vmm_queue_flush(&r->q);
  vmm_queue_wait(&r->q);
  uint64_t low[4], high[4];
  EQ(vmm_mem_fetch_log(r->vm, 0, low, 4), 256);
  EQ(vmm_mem_fetch_log(r->vm, PIECE, high, 4), 256);
  for (unsigned p = 0; p < 256; p++) {
    EQ(low[p / 64] >> (p % 64) & 1, p == DESC_AT / 4096 || p == DATA_AT / 4096);
    EQ(high[p / 64] >> (p % 64) & 1, p == (DEVICE_AT - PIECE) / 4096);
  }
  ring_end(r);
}
