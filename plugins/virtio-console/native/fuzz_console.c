/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target for the console: a driver that does as it likes on all queues, while the host types, reads, connects
 * and hangs up, and the device is stopped, paused, restored and started in between.
 *
 * What must hold: nothing outside of a request's pieces is touched, or after stop(); requests come back once and in
 * order; control messages are well formed; the bytes of port 0 arrive in both directions in order and none is missing.
 *
 * Input: a byte of choices, then steps: a byte that says which, and its operands.
 */
#define _GNU_SOURCE
#include "driver.h"

enum { STREAM = 1 << 16 };

static struct {
  const uint8_t *at, *end;
} in;

static uint8_t byte(void) {
  return in.at < in.end ? *in.at++ : 0;
}

static vmm_chardev *host = &fake_chardevs[0];
static void *pieces[4096];
static unsigned n_pieces;
static uint8_t typed[STREAM], said[STREAM]; /* by the host; by the driver on port 0 since the last reset */
static size_t n_typed, n_heard, n_said;
static unsigned looked[FAKE_QUEUES]; /* requests whose answers have been checked */
static uint64_t features;
static int client;

static void check_control(const struct fake_request *r) {
  uint8_t m[512];
  size_t n = 0;
  for (uint32_t i = r->n_out; i < r->n_out + r->n_in && n < r->written; i++) {
    size_t part = r->iov[i].iov_len < r->written - n ? r->iov[i].iov_len : r->written - n;
    memcpy(m + n, r->iov[i].iov_base, part);
    n += part;
  }
  if (!n) return; /* a buffer too small for any */
  uint64_t id = vmm_load(m, 4), event = vmm_load(m + 4, 2);
  CHECK(n >= 8 && n < 300 && id < 3);
  CHECK(event == DEVICE_ADD || event == CONSOLE_PORT || event == PORT_OPEN || event == PORT_NAME);
  CHECK(event != CONSOLE_PORT || !id);
  if (event == PORT_NAME && n == 8 + 3) CHECK(!memcmp(m + 8, id == 1 ? "one" : "two", 3));
}

/* What has come back since the last look. */
static void look(void) {
  for (unsigned i = 0; i < n_queues; i++) {
    for (; looked[i] < queue[i]->done; looked[i]++) {
      const struct fake_request *r = &queue[i]->request[looked[i] % FAKE_REQUESTS];
      if (i == CONTROL_RX) check_control(r);
      if (i % 2 || i == CONTROL_RX) CHECK(i == CONTROL_RX || !r->written);
      if (i != RX0) continue;
      uint32_t left = r->written;
      for (uint32_t k = r->n_out; left; k++) {
        uint32_t part = r->iov[k].iov_len < left ? (uint32_t)r->iov[k].iov_len : left;
        CHECK(n_heard + part <= n_typed && !memcmp(r->iov[k].iov_base, typed + n_heard, part));
        n_heard += part;
        left -= part;
      }
    }
  }
  CHECK(host->sent_len <= n_said && !memcmp(host->sent, said, host->sent_len));
}

static void fuzz_submit(unsigned i) {
  struct iovec iov[FAKE_PIECES];
  uint8_t shape = byte();
  uint32_t n_out = shape & 3, n_in = shape >> 2 & 3;
  if (n_pieces + 8 > sizeof pieces / sizeof *pieces || queue[i]->filled - queue[i]->done >= FAKE_REQUESTS) return;
  if (queue[i]->filled - looked[i] >= FAKE_REQUESTS) return; /* it would overwrite what has not been looked at */
  size_t before = n_said;
  for (uint32_t k = 0; k < n_out + n_in; k++) {
    size_t len = 1 + byte() * (shape & 0x40 ? 37u : 1u);
    uint8_t *p = malloc(len);
    memset(p, 0x11, len);
    for (size_t b = 0; k < n_out && b < len && b < 16; b++) p[b] = byte();
    if (k < n_out && i == TX0 && n_said + len <= STREAM) {
      memcpy(said + n_said, p, len);
      n_said += len;
    } else if (k < n_out && i == TX0) { /* no more to compare with */
      n_said = before;
      free(p);
      return;
    }
    iov[k] = (struct iovec){p, len};
    pieces[n_pieces++] = p;
  }
  submit(queue[i], iov, n_out, n_in);
}

static void fuzz_begin(uint8_t how) {
  static const unsigned counts[] = {8, 2, 6, 3, 1, 8, 5, 4};
  features = how & 0x80 ? 0 : CONSOLE_F_MULTIPORT;
  memset(looked, 0, sizeof looked);
  n_said = host->sent_len = 0;
  begin(counts[how & 7], features);
}

static void fuzz_end(int keep) {
  end();
  look();
  if (keep) return;
  while (n_pieces) free(pieces[--n_pieces]);
}

static void fuzz_client(uint8_t how) {
  char buffer[300];
  if (client < 0) {
    client = try_connect();
  } else if (how & 8) {
    if (how & 16) shutdown(client, SHUT_WR);
    else close(client), client = -1;
  } else {
    for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = (char)how;
    if (how & 1) (void)!send(client, buffer, 1 + how, MSG_NOSIGNAL | MSG_DONTWAIT);
    else (void)!recv(client, buffer, sizeof buffer, MSG_DONTWAIT);
  }
}

static void fuzz_pause(uint8_t how) {
  struct console_port_state state;
  fuzz_end(1);
  for (uint32_t i = 0; i < 3; i++) {
    console_save(console, i, &state);
    CHECK(!console_restore(console, i, &state));
    if (how & 0x20) { /* a state of anybody's making is refused or taken, no more */
      struct console_port_state other = state;
      uint8_t *raw = (uint8_t *)&other;
      raw[byte() % offsetof(struct console_port_state, in)] ^= byte();
      if (!console_restore(console, i, &other)) CHECK(!console_restore(console, i, &state));
    }
  }
  resume(features);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  in.at = data, in.end = data + size;
  n_typed = n_heard = n_said = 0;
  client = -1;
  make((struct console_port[]){chardev_port(NULL), socket_port("one"), null_port("two")}, 3);
  uint8_t how = byte();
  host->room = how & 0x40 ? 0 : 1 << 19;
  fuzz_begin(how);
  while (in.at < in.end) {
    uint8_t step = byte();
    switch (step % 8) {
      case 0:
      case 1:
      case 2: fuzz_submit((step >> 3) % n_queues); break;
      case 3: {
        uint8_t text[256];
        size_t n = byte() + 1u;
        for (size_t i = 0; i < n; i++) text[i] = (uint8_t)(n_typed + i * step);
        if (n_typed + n > STREAM) break;
        memcpy(typed + n_typed, text, n);
        n_typed += n;
        chardev_type(host, text, n);
        chardev_pump(host);
        break;
      }
      case 4: chardev_make_room(host, byte() * 5u); break;
      case 5: fuzz_client(byte()); break;
      case 6:
        for (int i = step >> 3 & 7; i >= 0 && turn_both(); i--) {}
        chardev_pump(host);
        look();
        break;
      case 7:
        if (step & 0x40) {
          fuzz_pause(step);
        } else if (!(step & 0x30)) {
          fuzz_end(0);
          fuzz_begin(byte());
        } else {
          queue[(step >> 3) % n_queues]->broken = true;
        }
        break;
    }
  }
  /* In the end everything flows: what was said on port 0 arrives, and what was typed if there are buffers for it. */
  chardev_make_room(host, 1 << 19);
  for (int i = 0; i < 10000 && turn_both(); i++) chardev_pump(host);
  look();
  if (n_queues > 1 && !queue[TX0]->broken) CHECK(host->sent_len == n_said && queue[TX0]->done == queue[TX0]->filled);
  fuzz_end(0);
  unmake();
  if (client >= 0) close(client);
  return 0;
}
