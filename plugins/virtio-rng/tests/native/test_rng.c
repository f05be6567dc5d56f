/* SPDX-License-Identifier: Apache-2.0 */
/* The entropy device against a core made of arrays. Built with sanitizers and run by test_rng_native.py. */
#define _GNU_SOURCE
#include "rng.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "fake_core.h"

static const uint64_t unlimited[3];
static char folder[] = "/tmp/test_rng.XXXXXX";

static int source(const char *path) {
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  CHECK(fd >= 0);
  return fd;
}

static const char *in_folder(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static struct rng *new_rng(int fd, const uint64_t bw[3], const uint64_t ops[3]) {
  int error = 1;
  struct rng *r = rng_new(&fake_api, NULL, "rng0", fd, bw, ops, &error);
  CHECK(r && !error);
  return r;
}

static vmm_queue *begin(struct rng *r) {
  vmm_queue *q = queue_begin(0);
  CHECK(!rng_start(r, q));
  return q;
}

static void end(struct rng *r, vmm_queue *q) {
  queue_unhandle(q);
  rng_stop(r);
  queue_end(q);
}

static bool all_zero(const uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (p[i]) return false;
  return true;
}

static void fills_every_piece(void) {
  core_begin();
  struct rng *r = new_rng(source("/dev/urandom"), unlimited, unlimited);
  vmm_queue *q = begin(r);
  uint8_t a[64] = {0}, b[100] = {0}, other[8] = {0};
  struct iovec iov[] = {{other, sizeof other}, {a, sizeof a}, {b, sizeof b}};
  struct fake_request *first = submit(q, iov, 1, 2), *empty = submit(q, iov, 1, 0);
  UNTIL(seen(q) == 2);
  CHECK(first->written == 164 && empty->written == 0);
  CHECK(!all_zero(a, sizeof a) && !all_zero(b, sizeof b) && all_zero(other, sizeof other));
  CHECK(counted("bytes") == 164 && counted("requests") == 2);
  end(r, q);
  rng_free(r);
  core_end();
}

/* A driver may ask for more than is good for the others on the loop: it gets less. */
static void large_request_gets_some(void) {
  core_begin();
  struct rng *r = new_rng(source("/dev/urandom"), unlimited, unlimited);
  vmm_queue *q = begin(r);
  size_t size = 64 << 20;
  uint8_t *big = calloc(1, size);
  struct fake_request *request = submit_in(q, big, size);
  UNTIL(seen(q) == 1);
  CHECK(request->written > 0 && request->written < 1 << 20);
  CHECK(all_zero(big + request->written, size - request->written));
  end(r, q);
  rng_free(r);
  free(big);
  core_end();
}

static void file_is_read_in_order_to_its_end(void) {
  core_begin();
  int fd = open(in_folder("data"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  CHECK(write(fd, "abcdefgh", 8) == 8);
  close(fd);
  struct rng *r = new_rng(source(in_folder("data")), unlimited, unlimited);
  vmm_queue *q = begin(r);
  char buffer[5] = "";
  for (int i = 0; i < 2; i++) {
    struct fake_request *request = submit_in(q, buffer, 4);
    UNTIL(seen(q) == 1u + (unsigned)i);
    CHECK(request->written == 4 && !memcmp(buffer, i ? "efgh" : "abcd", 4));
  }
  submit_in(q, buffer, 4);
  UNTIL(*q->why);
  CHECK(strstr(q->why, "end") && seen(q) == 2 && q->next == 2);
  end(r, q);
  q = begin(r); /* the driver has reset it: it is said again */
  submit_in(q, buffer, 4);
  UNTIL(*q->why);
  end(r, q);
  rng_free(r);
  core_end();
}

static void unreadable_source_is_said(void) {
  core_begin();
  struct rng *r = new_rng(open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), unlimited, unlimited);
  vmm_queue *q = begin(r);
  char buffer[4];
  submit_in(q, buffer, 4);
  UNTIL(*q->why);
  CHECK(strstr(q->why, "cannot be read") && seen(q) == 0);
  end(r, q);
  rng_free(r);
  core_end();
}

/* A FIFO without a writer, one with a writer that says nothing, one whose writer went and came again. */
static void fifo_is_waited_for(void) {
  core_begin();
  CHECK(!mkfifo(in_folder("fifo"), 0600));
  struct rng *r = new_rng(source(in_folder("fifo")), unlimited, unlimited);
  vmm_queue *q = begin(r);
  char buffer[5] = "";
  for (unsigned i = 0; i < 3; i++) {
    submit_in(q, buffer, 4);
    turn(20);
    CHECK(seen(q) == i && !*q->why);
    int fd = open(in_folder("fifo"), O_WRONLY);
    turn(5);
    CHECK(seen(q) == i);
    CHECK(write(fd, "wxyz", 4) == 4);
    UNTIL(seen(q) == i + 1);
    CHECK(!memcmp(buffer, "wxyz", 4));
    close(fd);
  }
  end(r, q);
  rng_free(r);
  core_end();
}

/* What a device takes in the time that it waits is what its limits allow, however it is asked. */
static void rate_limit_holds(void) {
  static const uint64_t bytes[3] = {1000, 500, 100}, two[3] = {2, 0, 60000};
  core_begin();
  struct rng *r = new_rng(source("/dev/urandom"), bytes, unlimited);
  vmm_queue *q = begin(r);
  uint8_t buffer[100];
  uint64_t start = fake_now();
  for (unsigned i = 0; i < 40; i++) CHECK(submit_in(q, buffer, sizeof buffer));
  UNTIL(seen(q) >= 15);
  UNTIL(seen(q) == 40); /* 4000 bytes: 1500 at once, the others in 250 ms */
  CHECK(fake_now() - start >= 250 * 1000000ull);
  CHECK(counted("throttled") > 0);
  end(r, q);
  rng_free(r);

  r = new_rng(source("/dev/urandom"), unlimited, two);
  q = begin(r);
  for (unsigned i = 0; i < 5; i++) CHECK(submit_in(q, buffer, sizeof buffer));
  UNTIL(seen(q) == 2);
  turn(20);
  CHECK(seen(q) == 2);
  end(r, q);
  rng_free(r);
  core_end();
}

static void waiting_source_costs_no_tokens(void) {
  static const uint64_t four[3] = {4, 0, 600000};
  core_begin();
  CHECK(!mkfifo(in_folder("slow"), 0600));
  int writer = open(in_folder("slow"), O_RDWR | O_CLOEXEC);
  struct rng *r = new_rng(source(in_folder("slow")), four, unlimited);
  vmm_queue *q = begin(r);
  char buffer[4];
  submit_in(q, buffer, 4);
  turn(10);
  CHECK(write(writer, "1234", 4) == 4);
  UNTIL(seen(q) == 1);
  end(r, q);
  rng_free(r);
  close(writer);
  core_end();
}

static void broken_ring_is_left_alone(void) {
  core_begin();
  struct rng *r = new_rng(source("/dev/urandom"), unlimited, unlimited);
  vmm_queue *q = begin(r);
  turn(5);
  q->broken = true;
  char buffer[4];
  submit_in(q, buffer, 4);
  turn(10);
  CHECK(seen(q) == 0);
  end(r, q);
  q = begin(r); /* after the reset */
  submit_in(q, buffer, 4);
  UNTIL(seen(q) == 1);
  end(r, q);
  rng_free(r);
  core_end();
}

/* Buffers are freed as soon as the device has stopped: the sanitizer sees a late write. */
static void stops_any_number_of_times(void) {
  core_begin();
  loops_run();
  struct rng *r = new_rng(source("/dev/urandom"), unlimited, unlimited);
  for (unsigned round = 0; round < 200; round++) {
    vmm_queue *q = begin(r);
    uint8_t *buffer = malloc(4096);
    unsigned n = 0;
    while (n < 400 + round && seen(q) < 300)
      if (submit_in(q, buffer, 1 + n % 4096)) n++;
    end(r, q);
    free(buffer);
  }
  CHECK(counted("requests") > 200);
  rng_free(r);
  loops_end();
  core_end();
}

static void older_core_is_refused(void) {
  core_begin();
  int error = 0;
  fake_api.minor = 3;
  CHECK(!rng_new(&fake_api, NULL, "rng0", source("/dev/urandom"), unlimited, unlimited, &error));
  CHECK(error == -ENOTSUP);
  fake_api.minor = VMM_API_MINOR;
  core_end();
}

int main(void) {
  CHECK(mkdtemp(folder));
  fills_every_piece();
  large_request_gets_some();
  file_is_read_in_order_to_its_end();
  unreadable_source_is_said();
  fifo_is_waited_for();
  rate_limit_holds();
  waiting_source_costs_no_tokens();
  broken_ring_is_left_alone();
  stops_any_number_of_times();
  older_core_is_refused();
  static const char *const left[] = {"data", "fifo", "slow"};
  for (int i = 0; i < 3; i++) unlink(in_folder(left[i]));
  rmdir(folder);
  puts("ok");
}
