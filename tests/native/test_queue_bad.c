/* SPDX-License-Identifier: Apache-2.0 */
/* Virtqueues that no driver should make: each breaks the queue, once, and nothing else. */
#include "queue_guest.h"

/* --- areas --- */

TEST(queue_start_refuses_impossible_rings) {
  struct ring *r = ring_memory();
  static const struct {
    uint32_t size;
    uint64_t features, desc, driver, device;
    int err;
  } bad[] = {
      {0, 0, DESC_AT, DRIVER_AT, DEVICE_AT, -EINVAL},
      {3, 0, DESC_AT, DRIVER_AT, DEVICE_AT, -EINVAL},
      {65536, 0, DESC_AT, DRIVER_AT, DEVICE_AT, -EINVAL},
      {32769, Q_PACKED, DESC_AT, DRIVER_AT, DEVICE_AT, -EINVAL},
      {8, 0, DESC_AT + 8, DRIVER_AT, DEVICE_AT, -EINVAL},
      {8, 0, DESC_AT, DRIVER_AT + 1, DEVICE_AT, -EINVAL},
      {8, 0, DESC_AT, DRIVER_AT, DEVICE_AT + 2, -EINVAL},
      {8, Q_PACKED, DESC_AT, DRIVER_AT + 2, DEVICE_AT, -EINVAL},
      {8, Q_PACKED, DESC_AT, DRIVER_AT, DEVICE_AT + 2, -EINVAL},
      {8, 0, RAM_END, DRIVER_AT, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, RAM_END + 0x1000, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, DRIVER_AT, 0xfee00000, -EFAULT},
      {8, 0, RAM_END - 0x70, DRIVER_AT, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, RAM_END - 20, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, DRIVER_AT, RAM_END - 0x44, -EFAULT},
      {8, Q_PACKED, RAM_END - 0x70, DRIVER_AT, DEVICE_AT, -EFAULT},
      {8, Q_PACKED, DESC_AT, RAM_END, DEVICE_AT, -EFAULT},
      {8, Q_PACKED, DESC_AT, DRIVER_AT, RAM_END, -EFAULT},
      {8, 0, 0xfffffffffffffff0u, DRIVER_AT, DEVICE_AT, -EFAULT},
      {32768, 0, 0xffffffffffff0000u, DRIVER_AT, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, 0xfffffffffffffffeu, DEVICE_AT, -EFAULT},
      {8, 0, DESC_AT, DRIVER_AT, 0xfffffffffffffffcu, -EFAULT},
  };
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    EQ(vmm_queue_start(&r->q, r->vm, bad[i].size, bad[i].features, bad[i].desc, bad[i].driver, bad[i].device),
       bad[i].err);
    EQ(r->q.size, 0);
    EQ(pop(r), -EPROTO);
    vmm_queue_unpop(&r->q, &r->chain);
    vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  }
  EQ(vmm_queue_start(&r->q, r->vm, 5, Q_PACKED, DESC_AT, DRIVER_AT, DEVICE_AT), 0); /* any size is fine when packed */
  EQ(vmm_queue_start(&r->q, r->vm, 8, 0, RAM_END - 0x80, DRIVER_AT, DEVICE_AT), 0); /* to the last byte */
  EQ(vmm_queue_start(&r->q, r->vm, 8, 0, DESC_AT, RAM_END - 22, DEVICE_AT), 0);
  EQ(vmm_queue_start(&r->q, r->vm, 8, 0, DESC_AT, DRIVER_AT, RAM_END - 0x48), 0);
  ring_end(r);
}

/* --- split --- */

static struct ring *one(uint64_t addr, uint32_t len, unsigned flags, unsigned next) {
  struct ring *r = ring_new(8, Q_TABLES);
  desc(r, 0, addr, len, flags, next);
  avail(r, 0);
  return r;
}

TEST(bad_head_outside_of_the_table) {
  static const uint16_t heads[] = {8, 9, 0x8000, 0xffff};
  for (unsigned i = 0; i < 4; i++) {
    struct ring *r = ring_new(8, 0);
    avail(r, heads[i]);
    must_break(r);
  }
}

TEST(bad_next_outside_of_the_table) {
  static const uint16_t next[] = {8, 9, 0x8000, 0xffff};
  for (unsigned i = 0; i < 4; i++) must_break(one(DATA_AT, 4, Q_NEXT, next[i]));
}

TEST(bad_chain_that_loops) {
  must_break(one(DATA_AT, 4, Q_NEXT, 0));
  struct ring *r = ring_new(8, 0);
  desc(r, 0, DATA_AT, 4, Q_NEXT, 1);
  desc(r, 1, DATA_AT, 4, Q_NEXT, 2);
  desc(r, 2, DATA_AT, 0, Q_NEXT, 1); /* empty buffers loop as well */
  avail(r, 0);
  must_break(r);
  r = ring_new(8, 0);
  for (unsigned i = 0; i < 8; i++) desc(r, i, DATA_AT, 0, Q_NEXT, (i + 1) % 8);
  avail(r, 3);
  must_break(r);
}

TEST(bad_avail_index_that_runs_away) {
  static const uint16_t ahead[] = {9, 100, 0x7fff, 0x8000, 0xffff};
  for (unsigned i = 0; i < 5; i++) {
    struct ring *r = ring_new(8, 0);
    for (unsigned d = 0; d < 8; d++) desc(r, d, DATA_AT, 4, 0, 0);
    poke16(r, DRIVER_AT + 2, ahead[i]);
    must_break(r);
  }
  struct ring *r = ring_new(8, 0); /* backwards, after some work */
  desc(r, 0, DATA_AT, 4, 0, 0);
  for (unsigned n = 0; n < 3; n++) {
    avail(r, 0);
    EQ(pop(r), 1);
  }
  poke16(r, DRIVER_AT + 2, 2);
  must_break(r);
}

static const struct {
  uint64_t addr;
  uint32_t len;
} outside[] = {
    {RAM_END, 1}, {RAM_END - 1, 2}, {RAM_END + 0x1000, 0x1000}, {FAR_RAM - 1, 2}, {FAR_RAM + FAR_SIZE, 1},
    {FAR_RAM + FAR_SIZE - 0x800, 0x1000}, {0, 0xffffffff}, {DATA_AT, 0xfffffff0}, {0xfee00000, 4}, {0xffffffff, 1},
    {0x100000000, 4096}, {0xfffffffffffff000, 0x1000}, {0xffffffffffffffff, 1}, {0xffffffffffffffff, 2},
    {0xfffffffffffffff0, 0x20}, {0x8000000000000000, 8}, {0 - (uint64_t)0xff000000, 0xff010000},
    {RAM_END - 0x1000, FAR_RAM - RAM_END + 0x2000}, /* from RAM over the hole into RAM */
};

TEST(bad_buffers_outside_of_memory) {
  for (unsigned i = 0; i < sizeof outside / sizeof *outside; i++)
    for (unsigned kind = 0; kind < 6; kind++) { /* read, written; split, packed, in tables of both */
      unsigned flags = kind & 1 ? Q_WRITE : 0, mode = kind / 2;
      struct ring *r = ring_new(8, Q_TABLES | (mode == 1 || mode == 3 ? Q_PACKED : 0));
      if (mode == 2) {
        entry(r, 0, DATA_AT, 4, Q_NEXT, 1);
        entry(r, 1, outside[i].addr, outside[i].len, flags, 0);
        desc(r, 0, TABLE_AT, 32, Q_INDIRECT, 0);
        avail(r, 0);
      } else if (mode == 1) {
        desc(r, 0, outside[i].addr, outside[i].len, 0, flags | Q_AVAIL);
      } else {
        desc(r, 0, outside[i].addr, outside[i].len, flags, 0);
        avail(r, 0);
      }
      must_break(r);
    }
}

TEST(bad_request_of_4_gib) {
  enum { SIZE = 8192 };
  struct ring *r = ring_new(SIZE, 0); /* each piece is in memory; 8192 times a MiB is too much */
  static struct iovec iov[SIZE * 2];
  for (unsigned i = 0; i < SIZE; i++) desc(r, i, 0, PIECE, i < SIZE - 1 ? Q_NEXT : 0, i + 1);
  avail(r, 0);
  EQ(vmm_queue_pop(&r->q, &r->chain, iov, SIZE * 2), -EPROTO);
  EQ(r->breaks, 1);
  ring_end(r);
}

TEST(bad_more_pieces_than_there_is_room) {
  for (unsigned n = 1; n <= 4; n++) {
    struct ring *r = ring_new(8, 0);
    struct iovec iov[8];
    memset(iov, 0x5a, sizeof iov);
    for (unsigned i = 0; i < 4; i++) desc(r, i, DATA_AT, 4, i < 3 ? Q_NEXT : 0, i + 1);
    avail(r, 0);
    EQ(vmm_queue_pop(&r->q, &r->chain, iov, n), n == 4 ? 1 : -EPROTO);
    EQ(iov[n].iov_len, 0x5a5a5a5a5a5a5a5a);
    ring_end(r);
  }
}

TEST(bad_write_before_read) {
  struct ring *r = ring_new(8, 0);
  desc(r, 0, DATA_AT, 4, Q_NEXT | Q_WRITE, 1);
  desc(r, 1, DATA_AT, 4, 0, 0);
  avail(r, 0);
  must_break(r);
  r = ring_new(8, Q_PACKED);
  desc(r, 0, DATA_AT, 4, 0, Q_NEXT | Q_WRITE | Q_AVAIL);
  desc(r, 1, DATA_AT, 4, 0, Q_AVAIL);
  must_break(r);
}

/* --- indirect tables --- */

TEST(bad_indirect_sizes_and_places) {
  static const struct {
    uint64_t addr;
    uint32_t len;
  } bad[] = {{TABLE_AT, 0}, {TABLE_AT, 1}, {TABLE_AT, 15}, {TABLE_AT, 17}, {TABLE_AT, 0xfffffff0}, {TABLE_AT, 0xffffffff},
             {TABLE_AT, 65536 * 16}, {RAM_END, 16}, {RAM_END - 16, 32}, {RAM_END - 8, 16}, {FAR_RAM - 16, 32},
             {0xfffffffffffffff0, 32}, {0xfffffffffffffff0, 16}, {0xfee00000, 16}, {UINT64_MAX, 16}};
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    must_break(one(bad[i].addr, bad[i].len, Q_INDIRECT, 0));
    struct ring *r = ring_new(8, Q_PACKED | Q_TABLES);
    desc(r, 0, bad[i].addr, bad[i].len, 0, Q_INDIRECT | Q_AVAIL);
    must_break(r);
  }
}

TEST(bad_indirect_that_was_not_negotiated) {
  struct ring *r = ring_new(8, 0);
  entry(r, 0, DATA_AT, 4, 0, 0);
  desc(r, 0, TABLE_AT, 16, Q_INDIRECT, 0);
  avail(r, 0);
  must_break(r);
  r = ring_new(8, Q_PACKED);
  desc(r, 0, TABLE_AT, 16, 0, Q_INDIRECT | Q_AVAIL);
  must_break(r);
}

TEST(bad_indirect_in_indirect) {
  struct ring *r = one(TABLE_AT, 32, Q_INDIRECT, 0);
  entry(r, 0, DATA_AT, 4, Q_NEXT, 1);
  entry(r, 1, TABLE_AT + 32, 16, Q_INDIRECT, 0);
  entry(r, 2, DATA_AT, 4, 0, 0); /* fine in itself */
  must_break(r);
}

/* The ring's own table can be told apart from an indirect one by nothing but how it was reached. */
TEST(bad_indirect_table_that_is_the_rings_own) {
  struct ring *r = ring_new(8, Q_TABLES);
  desc(r, 0, DESC_AT, 8 * 16, Q_INDIRECT, 0);
  avail(r, 0);
  must_break(r);
}

TEST(bad_indirect_with_next) {
  struct ring *r = one(TABLE_AT, 16, Q_INDIRECT | Q_NEXT, 1);
  entry(r, 0, DATA_AT, 4, 0, 0);
  desc(r, 1, DATA_AT, 4, 0, 0);
  must_break(r);
  r = ring_new(8, Q_PACKED | Q_TABLES);
  entry(r, 0, DATA_AT, 4, 0, 0);
  desc(r, 0, TABLE_AT, 16, 0, Q_INDIRECT | Q_NEXT | Q_AVAIL);
  desc(r, 1, DATA_AT, 4, 0, Q_AVAIL);
  must_break(r);
  r = ring_new(8, Q_PACKED | Q_TABLES); /* and behind a direct one, which only split rings allow */
  entry(r, 0, DATA_AT, 4, 0, 0);
  desc(r, 0, DATA_AT, 4, 0, Q_NEXT | Q_AVAIL);
  desc(r, 1, TABLE_AT, 16, 0, Q_INDIRECT | Q_AVAIL);
  must_break(r);
}

TEST(bad_indirect_that_loops_or_leaves_its_table) {
  for (unsigned next = 0; next < 4; next++) { /* 2, 3: entries that are there in memory, but not of the table */
    struct ring *r = one(TABLE_AT, 32, Q_INDIRECT, 0);
    entry(r, 0, DATA_AT, 4, Q_NEXT, 1);
    entry(r, 1, DATA_AT, 4, Q_NEXT, next);
    entry(r, 2, DATA_AT, 4, 0, 0);
    entry(r, 3, DATA_AT, 4, 0, 0);
    must_break(r);
  }
}

/* --- packed --- */

TEST(bad_packed_chain_without_an_end) {
  for (unsigned size = 1; size < 5; size++) {
    struct ring *r = ring_new(size, Q_PACKED);
    for (unsigned i = 0; i < size; i++) desc(r, i, DATA_AT, 4, 0, Q_NEXT | Q_AVAIL);
    must_break(r);
  }
}

/* Off the end of everything that a driver may write as events: it costs interrupts, nothing else. */
TEST(bad_packed_event_offsets) {
  struct ring *r = ring_new(5, Q_PACKED | Q_EVENTS);
  bool wrap = true;
  for (unsigned n = 0; n < 40; n++) {
    poke16(r, DRIVER_AT, (uint16_t)(n * 0x333));
    poke16(r, DRIVER_AT + 2, (uint16_t)(n * 0x1111));
    desc(r, n % 5, DATA_AT, 4, 0, wrap ? Q_AVAIL : Q_USED);
    if (n % 5 == 4) wrap = !wrap;
    EQ(pop(r), 1);
    vmm_queue_push(&r->q, &r->chain, r->iov, 0);
    vmm_queue_flush(&r->q);
  }
  EQ(r->breaks, 0);
  ring_end(r);
}

/* A driver that makes descriptors available again which it has not got back. */
TEST(bad_packed_driver_that_does_not_wait) {
  enum { SIZE = 4 };
  for (unsigned count = 1; count <= 3 * SIZE; count++) {
    struct ring *r = ring_new(SIZE, Q_PACKED | Q_EVENTS);
    for (unsigned n = 0; n < count; n++) {
      desc(r, n % SIZE, DATA_AT, 4, n, n / SIZE % 2 ? Q_USED : Q_AVAIL);
      EQ(pop(r), 1);
      vmm_queue_push(&r->q, &r->chain, r->iov, 4);
    }
    vmm_queue_flush(&r->q);
    EQ(r->breaks, 0);
    ring_end(r);
  }
}

/* A queue that broke starts anew after a reset. */
TEST(bad_queue_is_good_again_after_a_start) {
  struct ring *r = ring_new(8, 0);
  avail(r, 99);
  EQ(pop(r), -EPROTO);
  EQ(vmm_queue_start(&r->q, r->vm, 8, 0, DESC_AT, DRIVER_AT, DEVICE_AT), 0);
  desc(r, 0, DATA_AT, 4, 0, 0);
  poke16(r, DRIVER_AT + 4, 0);
  EQ(pop(r), 1);
  EQ(r->chain.out_len, 4);
  ring_end(r);
}
