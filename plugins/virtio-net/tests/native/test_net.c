/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane against a core made of arrays. A SEQPACKET socket stands for the TAP: a message is a frame.
 * Built with sanitizers and run by test_native.py. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_core.h"
#include "net.h"

enum { MERGEABLE = 1 << 15, PAGE = 1536 };

static struct vmm_queue rx, tx;
static struct net *net;
static int device, host; /* two ends of a socket */

static void open_net(int mode, uint64_t features) {
  int pair[2], error = 0;
  CHECK(!socketpair(AF_UNIX, (mode == NET_STREAM ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_NONBLOCK, 0, pair));
  int big = 1 << 20;
  for (int i = 0; i < 2; i++) setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
  device = pair[0], host = pair[1];
  fake_reset(&rx, 256, features);
  fake_reset(&tx, 256, features);
  net = net_new(&fake_api, NULL, "net0", mode, 1, pair, &error);
  CHECK(net);
}

static void start(void) {
  CHECK(!net_start(net, 0, (uintptr_t)&rx, (uintptr_t)&tx, 1));
}

static void stop(void) {
  fake_quiesce(&rx);
  fake_quiesce(&tx);
  net_stop(net);
  CHECK(!fake_watched());
  CHECK(rx.popped == rx.used); /* all that was not used is the driver's again */
  CHECK(tx.popped == tx.used);
}

static void close_net(void) {
  net_free(net);
  fake_free(&rx);
  fake_free(&tx);
  close(device);
  if (host >= 0) close(host);
}

static void fill_frame(uint8_t *frame, uint32_t len, unsigned seed) {
  for (uint32_t i = 0; i < len; i++) frame[i] = (uint8_t)(i * 7 + seed + (i >> 8));
}

static void host_sends(uint32_t len, unsigned seed, bool header) {
  static uint8_t frame[70000];
  memset(frame, 0xee, 12); /* what a TAP writes there is the guest's, but num_buffers */
  fill_frame(frame + (header ? 12 : 0), len, seed);
  CHECK(send(host, frame, len + (header ? 12 : 0), 0) == (ssize_t)(len + (header ? 12 : 0)));
}

static uint32_t taken; /* of rx.order: frames that the guest has looked at */

/* The guest takes its next frame: `len` bytes of it, in as many buffers as the header says. */
static void guest_gets(uint32_t len, unsigned seed) {
  static uint8_t frame[70000], expect[70000];
  CHECK(taken < rx.shown);
  struct posted *p = &rx.posted[rx.order[taken]];
  uint8_t header[12];
  uint32_t got = 0, number = 0;
  for (uint32_t i = 0; i < p->n_in && got < 12; i++) {
    size_t n = p->iov[i].iov_len < 12 - got ? p->iov[i].iov_len : 12 - got;
    memcpy(header + got, p->iov[i].iov_base, n);
    got += (uint32_t)n;
  }
  number = header[10] | header[11] << 8;
  CHECK(number >= 1 && number <= rx.shown - taken);
  for (got = 0; number; number--, taken++) {
    p = &rx.posted[rx.order[taken]];
    uint32_t left = p->written;
    for (uint32_t i = 0; i < p->n_in && left; i++) {
      uint32_t n = p->iov[i].iov_len < left ? (uint32_t)p->iov[i].iov_len : left;
      memcpy(frame + got, p->iov[i].iov_base, n);
      got += n, left -= n;
    }
    if (number > 1) CHECK(p->written == PAGE); /* only the last may be short (virtio 1.2 §5.1.6.4) */
  }
  fill_frame(expect, len, seed);
  CHECK(got == len + 12);
  CHECK(!memcmp(frame + 12, expect, len));
}

static void host_gets(uint32_t len, unsigned seed, bool header) {
  static uint8_t frame[70000], expect[70000];
  ssize_t n = recv(host, frame, sizeof frame, MSG_DONTWAIT);
  CHECK(n == (ssize_t)(len + (header ? 12 : 0)));
  fill_frame(expect, len, seed);
  CHECK(!memcmp(frame + (header ? 12 : 0), expect, len));
}

static void guest_sends(uint32_t len, unsigned seed) {
  static uint8_t frame[70000];
  fill_frame(frame, len, seed);
  fake_add_frame(&tx, frame, len);
}

static void post(unsigned n, uint32_t size) {
  while (n--) fake_add_in(&rx, size);
}

/* --- receive ------------------------------------------------------------------------ */

static void test_rx_mergeable(void) {
  taken = 0;
  open_net(NET_TAP, MERGEABLE);
  post(200, PAGE);
  start();
  uint32_t sizes[] = {60, 1514, 60000, 65549, 64, 9000, 60, 4084, 4085, 1524, 1525};
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) host_sends(sizes[i], i, true);
  fake_run(0);
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) guest_gets(sizes[i], i);
  CHECK(fake_counter("rx_frames") == sizeof sizes / sizeof *sizes);
  stop();
  close_net();
}

static void test_rx_few_popped_for_short_frames(void) {
  taken = 0;
  open_net(NET_TAP, MERGEABLE);
  post(1000, PAGE);
  start();
  host_sends(50000, 1, true);
  fake_run(0);
  guest_gets(50000, 1);
  CHECK(rx.popped - rx.used <= 44); /* 64 KiB of room at most */
  for (unsigned i = 0; i < 300; i++) {
    host_sends(100, i, true);
    fake_run(0);
    guest_gets(100, i);
  }
  CHECK(rx.popped - rx.used <= 4);
  host_sends(60000, 9, true); /* and still nothing is lost when long ones come back */
  host_sends(60000, 10, true);
  fake_run(0);
  guest_gets(60000, 9);
  guest_gets(60000, 10);
  stop();
  close_net();
}

static void test_rx_waits_for_buffers(void) {
  taken = 0;
  open_net(NET_TAP, MERGEABLE);
  post(3, PAGE);
  start();
  host_sends(60, 1, true);
  host_sends(20000, 2, true); /* more than there is room for */
  host_sends(60, 3, true);
  fake_run(0);
  guest_gets(60, 1);
  CHECK(taken == rx.shown && rx.wants_kick);
  unsigned before = fake_run_some(0, 100);
  CHECK(before <= 2); /* it does not run hot meanwhile */
  post(5, PAGE);
  fake_kick(&rx);
  fake_run(0);
  CHECK(taken == rx.shown); /* still not enough */
  post(20, PAGE);
  fake_kick(&rx);
  fake_run(0);
  guest_gets(20000, 2);
  guest_gets(60, 3);
  CHECK(!rx.wants_kick);
  stop();
  close_net();
}

static void test_rx_frame_beyond_the_ring_is_dropped(void) {
  taken = 0;
  uint64_t dropped = fake_counter("rx_dropped");
  open_net(NET_TAP, MERGEABLE);
  rx.size = 8;
  post(8, PAGE);
  start();
  host_sends(30000, 1, true);
  host_sends(61, 2, true);
  fake_run(0);
  guest_gets(61, 2);
  CHECK(fake_counter("rx_dropped") == dropped + 1);
  stop();
  close_net();
}

static void test_rx_one_buffer_a_frame(void) {
  taken = 0;
  open_net(NET_TAP, 0);
  const uint32_t pieces[] = {5, 7, 100, 4096, 4096, 4096};
  for (unsigned i = 0; i < 50; i++) fake_add(&rx, 0, 6, pieces);
  start();
  for (unsigned i = 0; i < 50; i++) host_sends(60 + i * 200, i, true);
  fake_run(0);
  for (unsigned i = 0; i < 50; i++) guest_gets(60 + i * 200, i);
  CHECK(rx.wants_kick || rx.popped == 50);
  stop();
  close_net();
}

static void test_rx_bad_buffers(void) {
  const uint32_t sizes[3] = {16, 2000, 8};
  for (unsigned i = 0; i < 3; i++) {
    open_net(NET_TAP, i & 1 ? MERGEABLE : 0);
    if (i == 0) fake_add(&rx, 1, 1, sizes); /* a readable piece */
    if (i == 1) fake_add(&rx, 0, 1, sizes + 2); /* shorter than the header */
    if (i == 2) fake_add(&rx, 1, 0, sizes);
    start();
    host_sends(60, 1, true);
    fake_run(0);
    CHECK(rx.failures == 1 && rx.used == 0);
    fake_kick(&rx);
    fake_run(0);
    CHECK(rx.failures == 1); /* said once */
    stop();
    close_net();
  }
}

/* --- transmit ------------------------------------------------------------------------ */

static void test_tx(void) {
  uint64_t frames = fake_counter("tx_frames"), bytes = fake_counter("tx_bytes");
  open_net(NET_TAP, MERGEABLE);
  start();
  for (unsigned i = 0; i < 20; i++) guest_sends(60 + 100 * i, i);
  fake_kick(&tx);
  fake_run(0);
  CHECK(tx.shown == 20);
  for (unsigned i = 0; i < 20; i++) host_gets(60 + 100 * i, i, true);
  CHECK(fake_counter("tx_frames") == frames + 20 && fake_counter("tx_bytes") == bytes + 60 * 20 + 100 * 190);
  stop();
  close_net();
}

static void test_tx_impossible_frames(void) {
  uint64_t dropped = fake_counter("tx_dropped");
  for (int mode = NET_TAP; mode <= NET_STREAM; mode++) {
    open_net(mode, 0);
    static uint32_t sizes[1032];
    for (unsigned i = 0; i < 1032; i++) sizes[i] = 20;
    tx.size = 1024;
    start();
    sizes[0] = 20;
    fake_add(&tx, 1026, 0, sizes); /* more pieces than a system call takes */
    sizes[0] = 12;
    fake_add(&tx, 1, 0, sizes); /* a header alone */
    sizes[0] = 3;
    fake_add(&tx, 1, 0, sizes);
    fake_add(&tx, 0, 1, sizes);
    fake_add(&tx, 0, 0, sizes);
    sizes[0] = 200000;
    fake_add(&tx, 1, 0, sizes);
    guest_sends(64, 5);
    fake_kick(&tx);
    fake_run(0);
    CHECK(tx.shown == 7);
    if (mode == NET_STREAM) {
      uint8_t length[4];
      CHECK(recv(host, length, 4, 0) == 4 && length[3] == 64 && !length[2]);
    }
    host_gets(64, 5, mode == NET_TAP);
    stop();
    close_net();
  }
  CHECK(fake_counter("tx_dropped") == dropped + 18);
}

static void test_tx_full_host_side(void) {
  for (int mode = NET_TAP; mode <= NET_STREAM; mode++) {
    open_net(mode, 0);
    start();
    for (unsigned i = 0; i < 400; i++) guest_sends(20000, i);
    fake_kick(&tx);
    fake_run(0);
    CHECK(tx.shown < 400); /* the socket is full */
    for (unsigned i = 0; i < 400; i++) {
      if (mode == NET_STREAM) {
        uint8_t all[20004], expect[20000];
        for (size_t got = 0; got < sizeof all;) {
          ssize_t n = recv(host, all + got, sizeof all - got, MSG_DONTWAIT);
          CHECK(n > 0 || errno == EAGAIN);
          if (n > 0) got += (size_t)n;
          fake_run(0);
        }
        fill_frame(expect, 20000, i);
        CHECK(all[0] == 0 && all[1] == 0 && all[2] == 20000 >> 8 && all[3] == (20000 & 255));
        CHECK(!memcmp(all + 4, expect, 20000));
      } else {
        host_gets(20000, i, mode == NET_TAP);
      }
      fake_run(0);
    }
    CHECK(tx.shown == 400);
    stop();
    close_net();
  }
}

/* --- streams and packets --------------------------------------------------------------- */

static void test_stream_in_any_pieces(void) {
  static uint8_t stream[400000];
  for (unsigned step = 1; step < 40000; step = step * 3 + 1) {
    taken = 0;
    open_net(NET_STREAM, MERGEABLE);
    post(600, PAGE);
    start();
    const uint32_t sizes[] = {60, 1514, 20000, 61, 65549, 14, 60};
    size_t len = 0, sent = 0;
    for (unsigned i = 0; i < 7; i++) {
      stream[len] = 0, stream[len + 1] = (uint8_t)(sizes[i] >> 16);
      stream[len + 2] = (uint8_t)(sizes[i] >> 8), stream[len + 3] = (uint8_t)sizes[i];
      fill_frame(stream + len + 4, sizes[i], i);
      len += 4 + sizes[i];
    }
    while (sent < len) {
      size_t n = len - sent < step ? len - sent : step;
      CHECK(send(host, stream + sent, n, 0) == (ssize_t)n);
      sent += n;
      if (step > 10 || sent % 16 == 0 || sent == len) fake_run(0);
    }
    for (unsigned i = 0; i < 7; i++) guest_gets(sizes[i], i);
    stop();
    close_net();
  }
}

static void test_stream_across_a_reset(void) {
  taken = 0;
  open_net(NET_STREAM, MERGEABLE);
  post(50, PAGE);
  start();
  uint8_t frame[4 + 100] = {0, 0, 0, 100};
  fill_frame(frame + 4, 100, 3);
  CHECK(send(host, frame, 50, 0) == 50);
  fake_run(0);
  stop();
  fake_free(&rx);
  fake_reset(&rx, 256, MERGEABLE);
  post(50, PAGE);
  start();
  CHECK(send(host, frame + 50, 54, 0) == 54);
  fake_run(0);
  guest_gets(100, 3);
  stop();
  /* The next machine on the same socket finds the start of a frame. */
  CHECK(send(host, frame, 104, 0) == 104 && send(host, frame, 70, 0) == 70);
  start();
  fake_run(0);
  stop();
  CHECK(send(host, frame + 70, 34, 0) == 34 && send(host, frame, 104, 0) == 104);
  net_free(net);
  uint8_t next[105];
  CHECK(recv(device, next, sizeof next, MSG_DONTWAIT) == 104 && !memcmp(next, frame, 104));
  fake_free(&rx);
  fake_free(&tx);
  close(device);
  close(host);
}

static void test_stream_is_left_at_the_end_of_a_frame(void) {
  open_net(NET_STREAM, 0);
  start();
  for (unsigned i = 0; i < 400; i++) guest_sends(20000, i);
  fake_kick(&tx);
  fake_run(0);
  CHECK(tx.shown < 400);
  stop();
  static uint8_t all[4 << 20];
  size_t got = 0;
  for (ssize_t n; (n = recv(host, all + got, sizeof all - got, MSG_DONTWAIT)) > 0;) got += (size_t)n;
  CHECK(got % 20004); /* the last is there in part */
  net_free(net);
  for (ssize_t n; (n = recv(host, all + got, sizeof all - got, MSG_DONTWAIT)) > 0;) got += (size_t)n;
  CHECK(got == 20004ull * tx.shown);
  fake_free(&rx);
  fake_free(&tx);
  close(device);
  close(host);
}

static void test_stream_of_nonsense_and_its_end(void) {
  for (unsigned i = 0; i < 2; i++) {
    unsigned logged = fake_logged;
    open_net(NET_STREAM, MERGEABLE);
    post(10, PAGE);
    start();
    if (i)
      shutdown(host, SHUT_RDWR);
    else
      CHECK(send(host, "\xff\xff\xff\xff....", 8, 0) == 8);
    fake_run(0);
    CHECK(rx.used == 0 && fake_logged == logged + 1);
    if (i) {
      guest_sends(60, 1);
      fake_kick(&tx);
      fake_run(0);
      CHECK(tx.shown == 1 && fake_logged == logged + 2); /* dropped, and the guest goes on */
    }
    fake_run(0);
    stop();
    close_net();
  }
}

static void test_packets(void) {
  taken = 0;
  open_net(NET_PACKET, MERGEABLE);
  start();
  host_sends(60, 1, false); /* no buffer yet */
  host_sends(5000, 2, false);
  fake_run(0);
  CHECK(rx.wants_kick);
  post(10, PAGE);
  fake_kick(&rx);
  fake_run(0);
  guest_gets(60, 1);
  guest_gets(5000, 2);
  guest_sends(100, 7);
  fake_kick(&tx);
  host_gets(100, 7, false);
  close(host);
  host = -1;
  fake_run(0);
  stop();
  close_net();
}

/* --- limits, pairs, resets --------------------------------------------------------------- */

static void test_limit(void) {
  taken = 0;
  fake_now = 1000000000;
  open_net(NET_TAP, MERGEABLE);
  CHECK(!net_limit(net, 0, 0, 0, 10, 5, 1)); /* 10 frames a ms, 5 more at first */
  post(100, PAGE);
  start();
  for (unsigned i = 0; i < 40; i++) guest_sends(60, i);
  for (unsigned i = 0; i < 40; i++) host_sends(60, i, true);
  fake_kick(&tx);
  fake_run_some(0, 10);
  CHECK(tx.shown == 15 && rx.shown == 15);
  for (unsigned expect = 15; expect <= 40;) {
    while (!fake_run_some(5, 10)) {} /* the timer runs on the real clock */
    CHECK(tx.shown <= expect && rx.shown <= expect);
    if (tx.shown == 40 && rx.shown == 40) break;
    expect = expect + 5 > 40 ? 40 : expect + 5;
    fake_now += 500000; /* half a ms: five tokens */
  }
  CHECK(tx.shown == 40 && rx.shown == 40);
  for (unsigned i = 0; i < 40; i++) guest_gets(60, i);
  stop();
  close_net();
  fake_now = 0;
}

static void test_disabled_pair_gets_nothing(void) {
  taken = 0;
  open_net(NET_TAP, MERGEABLE);
  post(10, PAGE);
  CHECK(!net_start(net, 0, (uintptr_t)&rx, (uintptr_t)&tx, 0));
  host_sends(60, 1, true);
  fake_run(0);
  CHECK(!rx.used);
  CHECK(!net_enable(net, 0, 1));
  fake_run(0);
  guest_gets(60, 1);
  CHECK(!net_enable(net, 0, 0) && !net_enable(net, 0, 0));
  host_sends(60, 2, true);
  fake_run(0);
  CHECK(taken == rx.used);
  CHECK(net_enable(net, 1, 1) == -EINVAL && net_start(net, 1, 0, 0, 1) == -EINVAL);
  stop();
  close_net();
}

static void test_sparse_queues(void) {
  open_net(NET_TAP, MERGEABLE);
  CHECK(!net_start(net, 0, 0, (uintptr_t)&tx, 1)); /* transmit only */
  guest_sends(60, 1);
  fake_kick(&tx);
  host_gets(60, 1, true);
  CHECK(!net_enable(net, 0, 1));
  stop();
  CHECK(!net_start(net, 0, (uintptr_t)&rx, 0, 1)); /* receive only */
  post(4, PAGE);
  fake_kick(&rx);
  taken = 0;
  host_sends(70, 2, true);
  fake_run(0);
  guest_gets(70, 2);
  stop();
  close_net();
}

static void test_resets_under_traffic(void) {
  for (int mode = NET_TAP; mode <= NET_STREAM; mode++) {
    open_net(mode, MERGEABLE);
    for (unsigned round = 0; round < 200; round++) {
      fake_free(&rx);
      fake_free(&tx);
      fake_reset(&rx, 64, round % 3 ? MERGEABLE : 0);
      fake_reset(&tx, 64, 0);
      post(round % 40, round % 3 ? PAGE : 66000);
      start();
      for (unsigned i = 0; i < 20; i++) {
        uint8_t frame[4 + 5000] = {0, 0, 5000 >> 8, 5000 & 255};
        if (mode == NET_STREAM)
          CHECK(send(host, frame, sizeof frame, MSG_DONTWAIT) == sizeof frame || errno == EAGAIN);
        else
          CHECK(send(host, frame, 60 + 200 * i, MSG_DONTWAIT) > 0 || errno == EAGAIN);
        if (mode != NET_STREAM || i < 5) guest_sends(60 + 300 * i, i);
      }
      fake_kick(&tx);
      fake_kick(&rx);
      fake_run_some(0, round % 7);
      uint8_t sink[70000];
      while (recv(host, sink, sizeof sink, MSG_DONTWAIT) > 0) {}
      fake_run_some(0, round % 5);
      stop();
    }
    close(host); /* a frame that is half sent is nobody's */
    host = -1;
    close_net();
  }
}

int main(void) {
  test_rx_mergeable();
  test_rx_few_popped_for_short_frames();
  test_rx_waits_for_buffers();
  test_rx_frame_beyond_the_ring_is_dropped();
  test_rx_one_buffer_a_frame();
  test_rx_bad_buffers();
  test_tx();
  test_tx_impossible_frames();
  test_tx_full_host_side();
  test_stream_in_any_pieces();
  test_stream_across_a_reset();
  test_stream_is_left_at_the_end_of_a_frame();
  test_stream_of_nonsense_and_its_end();
  test_packets();
  test_limit();
  test_disabled_pair_gets_nothing();
  test_sparse_queues();
  test_resets_under_traffic();
  puts("ok");
  return 0;
}
