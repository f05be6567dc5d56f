/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues that are well-formed (virtio 1.2 §2.7). The malformed ones: test_queue_bad.c. */
#include "queue_guest.h"

TEST(split_a_request_is_its_pieces_in_order) {
  struct ring *r = ring_new(8, 0);
  EQ(pop(r), 0);
  desc(r, 5, DATA_AT, 16, Q_NEXT, 2);
  desc(r, 2, DATA_AT + 0x100, 1, Q_NEXT, 7);
  desc(r, 7, DATA_AT + 0x200, 512, Q_NEXT | Q_WRITE, 0);
  desc(r, 0, FAR_RAM + FAR_SIZE - 3, 3, Q_WRITE, 99); /* the last one's next means nothing */
  avail(r, 5);
  EQ(pop(r), 1);
  EQ(r->chain.n_out, 2);
  EQ(r->chain.n_in, 2);
  EQ(r->chain.out_len, 17);
  EQ(r->chain.in_len, 515);
  PIECE_IS(r, 0, DATA_AT, 16);
  PIECE_IS(r, 1, DATA_AT + 0x100, 1);
  PIECE_IS(r, 2, DATA_AT + 0x200, 512);
  PIECE_IS(r, 3, FAR_RAM + FAR_SIZE - 3, 3);
  EQ(pop(r), 0);
  vmm_queue_push(&r->q, &r->chain, r->iov, 513);
  EQ(used_idx(r), 0);
  EQ(vmm_queue_flush(&r->q), 1);
  EQ(used_idx(r), 1);
  USED_IS(r, 0, 5, 513);
  EQ(r->interrupts, 1);
  EQ(vmm_queue_flush(&r->q), 0); /* nothing new: no interrupt */
  EQ(r->interrupts, 1);
  EQ(r->breaks, 0);
  ring_end(r);
}

TEST(what_a_queue_does_is_counted) {
  struct ring *r = ring_new(8, 0);
  uint64_t seen[VMM_COUNTS];
  for (unsigned i = 0; i < 3; i++) {
    desc(r, 0, DATA_AT, 16, Q_NEXT, 1);
    desc(r, 1, DATA_AT + 0x100, 512, Q_WRITE, 0);
    avail(r, 0);
    EQ(pop(r), 1);
    if (!i) { /* one that is put back counts when it comes again */
      vmm_queue_unpop(&r->q, &r->chain);
      EQ(pop(r), 1);
    }
    vmm_queue_push(&r->q, &r->chain, r->iov, 100);
    if (i) EQ(vmm_queue_flush(&r->q), 1);
  }
  vmm_queue_kicked(&r->q);
  vmm_queue_counts(&r->q, seen);
  EQ(seen[VMM_COUNT_REQUESTS], 3);
  EQ(seen[VMM_COUNT_OUT], 3 * 16);
  EQ(seen[VMM_COUNT_IN], 3 * 100);
  EQ(seen[VMM_COUNT_INTERRUPTS], 2);
  EQ(seen[VMM_COUNT_KICKS], 1);
  ring_end(r);
}

TEST(split_the_longest_chain_is_the_table) {
  struct ring *r = ring_new(256, 0);
  for (unsigned i = 0; i < 256; i++) desc(r, i, DATA_AT + i, 1, i < 255 ? Q_NEXT : 0, i + 1);
  avail(r, 0);
  EQ(pop(r), 1);
  EQ(r->chain.n_out, 256);
  EQ(r->chain.out_len, 256);
  ring_end(r);
}

TEST(split_a_buffer_over_two_pieces_of_ram_is_two_pieces) {
  struct ring *r = ring_new(4, 0);
  desc(r, 0, PIECE - 10, 30, Q_WRITE, 0);
  avail(r, 0);
  EQ(pop(r), 1);
  EQ(r->chain.n_in, 2);
  EQ(r->chain.in_len, 30);
  PIECE_IS(r, 0, PIECE - 10, 10);
  PIECE_IS(r, 1, PIECE, 20);
  ring_end(r);
}

TEST(split_empty_buffers_are_no_pieces) {
  struct ring *r = ring_new(4, 0);
  desc(r, 0, UINT64_MAX, 0, Q_NEXT, 1); /* an address that nobody looks at */
  desc(r, 1, DATA_AT, 4, Q_NEXT, 2);
  desc(r, 2, 0, 0, Q_WRITE, 0);
  avail(r, 0);
  EQ(pop(r), 1);
  EQ(r->chain.n_out, 1);
  EQ(r->chain.n_in, 0);
  EQ(r->chain.out_len, 4);
  vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  vmm_queue_flush(&r->q);
  desc(r, 3, DATA_AT, 0, 0, 0);
  avail(r, 3);
  EQ(pop(r), 1);
  EQ(r->chain.n_out + r->chain.n_in, 0);
  vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  vmm_queue_flush(&r->q);
  USED_IS(r, 1, 3, 0);
  ring_end(r);
}

TEST(split_indices_wrap_at_16_bits) {
  struct ring *r = ring_new(4, 0);
  for (unsigned i = 0; i < 4; i++) desc(r, i, DATA_AT + 16 * i, 16, Q_WRITE, 0);
  for (unsigned n = 0; n < 65536 + 5; n++) {
    avail(r, n * 3 % 4);
    EQ(pop(r), 1);
    PIECE_IS(r, 0, DATA_AT + 16 * (n * 3 % 4), 16);
    EQ(pop(r), 0);
    vmm_queue_push(&r->q, &r->chain, r->iov, n & 15);
    EQ(vmm_queue_flush(&r->q), 1);
    EQ(used_idx(r), (uint16_t)(n + 1));
    USED_IS(r, n, n * 3 % 4, n & 15);
  }
  EQ(r->interrupts, 65541);
  ring_end(r);
}

TEST(split_the_largest_ring_full) {
  struct ring *r = ring_new(32768, 0);
  for (unsigned lap = 0; lap < 3; lap++) { /* over 16 bits */
    for (unsigned i = 0; i < 32768; i++) {
      desc(r, i, DATA_AT, 1, Q_WRITE, 0);
      avail(r, (uint16_t)(32767 - i));
    }
    for (unsigned i = 0; i < 32768; i++) {
      EQ(pop(r), 1);
      vmm_queue_push(&r->q, &r->chain, r->iov, 1);
    }
    EQ(pop(r), 0);
    vmm_queue_flush(&r->q);
    EQ(used_idx(r), r->avail_idx);
    USED_IS(r, 32767, 0, 1);
    USED_IS(r, 0, 32767, 1);
  }
  ring_end(r);
}

TEST(split_requests_go_back_in_any_order) {
  struct ring *r = ring_new(4, 0);
  struct vmm_chain c[4];
  for (unsigned i = 0; i < 4; i++) {
    desc(r, i, DATA_AT + 16 * i, 16, Q_WRITE, 0);
    avail(r, (uint16_t)i);
  }
  for (unsigned i = 0; i < 4; i++) {
    EQ(pop(r), 1);
    c[i] = r->chain;
  }
  static const unsigned order[] = {2, 0, 3, 1};
  for (unsigned i = 0; i < 4; i++) vmm_queue_push(&r->q, &c[order[i]], NULL, order[i]);
  EQ(vmm_queue_flush(&r->q), 1);
  EQ(r->interrupts, 1); /* one for all */
  for (unsigned i = 0; i < 4; i++) USED_IS(r, i, order[i], order[i]);
  ring_end(r);
}

TEST(split_unpop_puts_back) {
  struct ring *r = ring_new(4, 0);
  struct vmm_chain c[3];
  for (unsigned i = 0; i < 4; i++) desc(r, i, DATA_AT + 16 * i, 16, 0, 0);
  r->q.next_avail = r->q.next_used = r->avail_idx = 0xfffe; /* over 16 bits */
  for (unsigned i = 0; i < 3; i++) avail(r, (uint16_t)i);
  for (unsigned i = 0; i < 3; i++) {
    EQ(pop(r), 1);
    c[i] = r->chain;
  }
  for (unsigned i = 3; i--;) vmm_queue_unpop(&r->q, &c[i]);
  for (unsigned i = 0; i < 3; i++) {
    EQ(pop(r), 1);
    EQ(r->chain.id, i);
  }
  EQ(pop(r), 0);
  ring_end(r);
}

TEST(split_an_indirect_table_is_its_entries) {
  struct ring *r = ring_new(4, Q_TABLES);
  entry(r, 0, DATA_AT, 8, Q_NEXT, 3);
  entry(r, 3, DATA_AT + 8, 8, Q_NEXT | Q_WRITE, 1);
  entry(r, 1, DATA_AT + 16, 8, Q_WRITE, 0);
  desc(r, 2, TABLE_AT, 64, Q_INDIRECT | Q_WRITE, 0); /* §2.7.5.3.2: WRITE of the table itself is to be ignored */
  avail(r, 2);
  EQ(pop(r), 1);
  EQ(r->chain.id, 2);
  EQ(r->chain.n_out, 1);
  EQ(r->chain.n_in, 2);
  PIECE_IS(r, 1, DATA_AT + 8, 8);
  PIECE_IS(r, 2, DATA_AT + 16, 8);
  ring_end(r);
}

/* §2.7.5.3.2: zero or more direct descriptors, then a single indirect one. */
TEST(split_an_indirect_table_may_end_a_chain) {
  struct ring *r = ring_new(4, Q_TABLES);
  desc(r, 1, DATA_AT, 4, Q_NEXT, 0);
  desc(r, 0, DATA_AT + 4, 4, Q_NEXT, 3);
  desc(r, 3, TABLE_AT, 32, Q_INDIRECT, 0);
  entry(r, 0, DATA_AT + 8, 4, Q_NEXT, 1);
  entry(r, 1, DATA_AT + 12, 4, Q_WRITE, 0);
  avail(r, 1);
  EQ(pop(r), 1);
  EQ(r->chain.id, 1);
  EQ(r->chain.n_out, 3);
  EQ(r->chain.n_in, 1);
  ring_end(r);
}

TEST(split_an_indirect_table_may_be_longer_than_the_ring) {
  struct ring *r = ring_new(2, Q_TABLES);
  for (unsigned i = 0; i < 128; i++) entry(r, i, DATA_AT + i, 1, i < 127 ? Q_NEXT : 0, i + 1);
  desc(r, 0, TABLE_AT, 128 * 16, Q_INDIRECT, 0);
  avail(r, 0);
  EQ(pop(r), 1);
  EQ(r->chain.n_out, 128);
  ring_end(r);
}

/* --- suppression --- */

TEST(split_no_interrupt_if_the_driver_wants_none) {
  struct ring *r = ring_new(4, 0);
  desc(r, 0, DATA_AT, 4, 0, 0);
  poke16(r, DRIVER_AT, 1);
  avail(r, 0);
  EQ(pop(r), 1);
  vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  EQ(vmm_queue_flush(&r->q), 0);
  EQ(used_idx(r), 1);
  poke16(r, DRIVER_AT, 0);
  avail(r, 0);
  EQ(pop(r), 1);
  vmm_queue_push(&r->q, &r->chain, r->iov, 0);
  EQ(vmm_queue_flush(&r->q), 1);
  EQ(r->interrupts, 1);
  ring_end(r);
}

/* Every distance between the index and the driver's wish, around zero and the wrap of 16 bits. */
TEST(split_event_index_decides_about_interrupts) {
  struct ring *r = ring_new(8, Q_EVENTS);
  static const uint16_t starts[] = {0, 1, 0x7ffd, 0x7fff, 0xfff8, 0xfffd, 0xffff};
  desc(r, 0, DATA_AT, 4, 0, 0);
  for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++)
    for (unsigned count = 1; count <= 8; count++)
      for (int wish = -3; wish < 12; wish++) {
        uint16_t old = starts[s];
        r->q.next_avail = r->q.next_used = r->q.signalled = r->avail_idx = old;
        poke16(r, DEVICE_AT + 2, old);
        used_event(r, (uint16_t)(old + wish));
        for (unsigned i = 0; i < count; i++) {
          avail(r, 0);
          EQ(pop(r), 1);
          vmm_queue_push(&r->q, &r->chain, r->iov, 0);
        }
        poke16(r, DRIVER_AT, 1); /* the flag does not count with EVENT_IDX (§2.7.10) */
        EQ(vmm_queue_flush(&r->q), wish >= 0 && wish < (int)count);
      }
  ring_end(r);
}

TEST(split_event_index_is_looked_at_once_per_flush) {
  struct ring *r = ring_new(8, Q_EVENTS);
  desc(r, 0, DATA_AT, 4, 0, 0);
  used_event(r, 2);
  for (unsigned n = 0; n < 6; n++) {
    avail(r, 0);
    EQ(pop(r), 1);
    vmm_queue_push(&r->q, &r->chain, r->iov, 0);
    EQ(vmm_queue_flush(&r->q), n == 2);
  }
  EQ(r->interrupts, 1);
  ring_end(r);
}

TEST(split_wait_asks_for_a_kick) {
  struct ring *r = ring_new(4, 0);
  desc(r, 0, DATA_AT, 4, 0, 0);
  vmm_queue_quiet(&r->q);
  EQ(peek16(r, DEVICE_AT), 1);
  EQ(vmm_queue_wait(&r->q), 0);
  EQ(peek16(r, DEVICE_AT), 0);
  vmm_queue_quiet(&r->q);
  avail(r, 0);
  EQ(vmm_queue_wait(&r->q), 1); /* one came while we were quiet: there will be no kick */
  EQ(pop(r), 1);
  EQ(vmm_queue_wait(&r->q), 0);
  ring_end(r);
}

TEST(split_wait_with_event_index_names_the_next_request) {
  struct ring *r = ring_new(4, Q_EVENTS);
  desc(r, 0, DATA_AT, 4, 0, 0);
  r->q.next_avail = r->avail_idx = 0xfffe;
  poke16(r, DRIVER_AT + 2, 0xfffe);
  for (unsigned n = 0; n < 5; n++) {
    EQ(vmm_queue_wait(&r->q), 0);
    EQ(avail_event(r), r->avail_idx);
    avail(r, 0);
    vmm_queue_quiet(&r->q);
    EQ(vmm_queue_wait(&r->q), 1);
    EQ(pop(r), 1);
    EQ(peek16(r, DEVICE_AT), 0); /* §2.7.10.2: the flags stay 0 */
  }
  ring_end(r);
}

/* --- dirty marking --- */

TEST(split_what_the_device_writes_is_marked_dirty) {
  struct ring *r = ring_new(4, Q_EVENTS);
  EQ(vmm_mem_log(r->vm, 1), 0);
  desc(r, 0, DATA_AT, 0x1000, Q_NEXT, 1);
  desc(r, 1, PIECE - 0x1000, 0x3000, Q_WRITE, 0); /* over the end of the first piece */
  avail(r, 0);
  EQ(pop(r), 1);
  vmm_queue_push(&r->q, &r->chain, r->iov, 0x1001);
  vmm_queue_flush(&r->q);
  uint64_t low[4], high[4];
  EQ(vmm_mem_fetch_log(r->vm, 0, low, 4), 256);
  EQ(vmm_mem_fetch_log(r->vm, PIECE, high, 4), 256);
  for (unsigned p = 0; p < 256; p++) {
    EQ(low[p / 64] >> (p % 64) & 1, p == 255);
    EQ(high[p / 64] >> (p % 64) & 1, p == 0 || p == (DEVICE_AT - PIECE) / 4096);
  }
  ring_end(r);
}
