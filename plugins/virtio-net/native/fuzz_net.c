/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target: requests of any shape, frames and streams of any content, starts and stops in any order,
 * against the data plane with a core made of arrays (tests/native/fake_core.c). Each piece of a request is an
 * allocation of its own, so that one byte beyond it is found. See fuzz/run.sh.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_core.h"
#include "net.h"

struct input {
  const uint8_t *at, *end;
};

static uint32_t byte(struct input *in) {
  return in->at < in->end ? *in->at++ : 0;
}

static uint32_t word(struct input *in) {
  uint32_t low = byte(in);
  return low | byte(in) << 8;
}

/* Mostly sizes at which something changes. */
static uint32_t size(struct input *in) {
  static const uint32_t some[] = {0, 1, 2, 10, 11, 12, 13, 26, 60, 512, 1526, 4096, 65535, 65562};
  uint32_t n = byte(in);
  return n < 128 ? some[n % 14] : word(in);
}

static struct vmm_queue rx, tx;

static void reset_queues(uint64_t features) {
  fake_quiesce(&rx);
  fake_quiesce(&tx);
  fake_free(&rx);
  fake_free(&tx);
  fake_reset(&rx, 16u << (features & 3), features);
  fake_reset(&tx, 16u << (features & 3), features);
}

static void post(struct vmm_queue *q, struct input *in) {
  uint32_t sizes[80], shape = byte(in), n_out = shape & 7, n_in = shape >> 3 & 7;
  if (shape & 64) n_out *= 5, n_in *= 4;
  if (q->added >= FAKE_POSTED - 1) return;
  for (uint32_t i = 0; i < n_out + n_in; i++) sizes[i] = size(in);
  uint32_t number = fake_add(q, n_out, n_in, sizes);
  for (uint32_t i = 0; i < n_out; i++)
    for (uint32_t k = 0; k < 16 && k < sizes[i]; k++)
      ((uint8_t *)q->posted[number].iov[i].iov_base)[k] = (uint8_t)byte(in);
}

static void host_sends(int host, struct input *in) {
  static uint8_t data[70000];
  uint32_t len = size(in), head = byte(in) & 31;
  for (uint32_t i = 0; i < head; i++) data[i] = (uint8_t)byte(in);
  (void)!send(host, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  static uint8_t sink[70000];
  struct input in = {data, data + len};
  int pair[2], error, mode = (int)(byte(&in) % 3);
  uint64_t features = (uint64_t)byte(&in) << 12; /* MRG_RXBUF is bit 15 */
  bool running = false;
  CHECK(!socketpair(AF_UNIX, (mode == NET_STREAM ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_NONBLOCK, 0, pair));
  struct net *net = net_new(&fake_api, NULL, "net0", mode, 1, pair, &error);
  CHECK(net);
  fake_now = 1;
  if (byte(&in) & 1) CHECK(!net_limit(net, byte(&in) * 100, byte(&in), 1, byte(&in), 0, 1));
  reset_queues(features | byte(&in) % 4);
  while (in.at < in.end) {
    switch (byte(&in) % 12) {
    case 0: case 1: post(&rx, &in); break;
    case 2: case 3: post(&tx, &in); break;
    case 4: host_sends(pair[1], &in); break;
    case 5: if (running) fake_kick(&rx); break;
    case 6: if (running) fake_kick(&tx); break;
    case 7: fake_run_some(0, byte(&in)); break;
    case 8: (void)!recv(pair[1], sink, size(&in), MSG_DONTWAIT); break;
    case 9:
      if (running) {
        fake_quiesce(&rx);
        fake_quiesce(&tx);
        net_stop(net);
        CHECK(!fake_watched() && rx.popped == rx.used && tx.popped == tx.used);
        if (byte(&in) & 1) reset_queues((uint64_t)byte(&in) << 12);
        running = false;
        break;
      }
      running = true;
      CHECK(!net_start(net, 0, byte(&in) & 7 ? (uintptr_t)&rx : 0, byte(&in) & 7 ? (uintptr_t)&tx : 0, byte(&in) & 1));
      break;
    case 10: CHECK(!net_enable(net, 0, byte(&in) & 1)); break;
    case 11: {
      uint32_t what = byte(&in);
      fake_now += what * 1000u;
      for (uint32_t i = what & 15; i; i--) {
        uint32_t room = what & 16 ? 1526 : 65562;
        if (rx.added < FAKE_POSTED - 1) fake_add_in(&rx, room);
      }
      if (!(what & 63)) shutdown(pair[1], SHUT_RDWR);
      break;
    }
    }
  }
  if (running) {
    fake_run_some(0, 100);
    fake_quiesce(&rx);
    fake_quiesce(&tx);
    net_stop(net);
    CHECK(rx.popped == rx.used && tx.popped == tx.used);
  }
  close(pair[1]);
  net_free(net);
  close(pair[0]);
  fake_free(&rx);
  fake_free(&tx);
  return 0;
}
