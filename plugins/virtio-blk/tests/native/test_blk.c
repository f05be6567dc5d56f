/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane on a file, with requests well-formed and malformed. Arguments: uring|pool, DIRECTORY. */
#define _GNU_SOURCE
#include "blk.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fake_core.h"
#include "request.h"

enum { SECTORS = 2048, ALL = F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES, UNTOUCHED = 0xee };

static const char *backend, *folder;
static struct blk *blk;
static struct vmm_queue queue;
static int image;
static uint8_t expected[SECTORS * SECTOR]; /* of the image */

struct header {
  uint32_t type, reserved;
  uint64_t sector;
};

/* --- set up --- */

static void fill(void) {
  for (size_t i = 0; i < sizeof expected; i++) expected[i] = (uint8_t)(i / SECTOR * 7 + i);
  EQ(pwrite(image, expected, sizeof expected, 0), sizeof expected);
}

static void begin(struct blk_setup setup, uint64_t features, uint32_t size) {
  int error;
  setup.fd = image;
  setup.queues = 1;
  setup.no_uring = !strcmp(backend, "pool");
  memcpy(setup.id, "the serial", 10);
  fake_start();
  fake_queue_init(&queue, size, features);
  blk = blk_new(&fake_api, NULL, &setup, &error);
  CHECK(blk);
  EQ(blk_start(blk, 0, &queue), 0);
  EQ(blk_uring(blk), !setup.no_uring);
}

static void end(void) {
  fake_queue_halt(&queue);
  blk_stop(blk);
  blk_free(blk);
  fake_queue_free(&queue);
  fake_stop();
}

static void same_image(void) {
  static uint8_t now[sizeof expected];
  EQ(pread(image, now, sizeof now, 0), sizeof now);
  CHECK(!memcmp(now, expected, sizeof now));
}

/* --- requests --- */

static struct fake_request *post(uint32_t type, uint64_t sector, void *data, size_t len, uint8_t *status) {
  struct header *h = malloc(sizeof *h); /* of its own, so that a read too far is seen */
  *h = (struct header){type, 0, sector};
  struct iovec out[] = {{h, sizeof *h}, {data, len}};
  struct iovec in[] = {{data, len}, {status, 1}};
  bool reads = type == T_IN || type == T_GET_ID;
  *status = UNTOUCHED;
  return reads ? fake_post(&queue, out, 1, len ? in : in + 1, len ? 2 : 1)
               : fake_post(&queue, out, len ? 2 : 1, in + 1, 1);
}

static uint8_t ask(uint32_t type, uint64_t sector, void *data, size_t len) {
  uint8_t status;
  struct fake_request *r = post(type, sector, data, len, &status);
  void *header = r->iov[0].iov_base;
  fake_wait(&queue, r);
  free(header);
  bool reads = type == T_IN || type == T_GET_ID;
  EQ(r->written, (reads ? len : 0) + 1);
  return status;
}

/* --- tests --- */

static void reads_and_writes(void) {
  begin((struct blk_setup){0}, ALL, 64);
  static uint8_t data[64 << 10];
  EQ(ask(T_IN, 3, data, SECTOR), S_OK);
  CHECK(!memcmp(data, expected + 3 * SECTOR, SECTOR));
  EQ(ask(T_IN, SECTORS - 128, data, sizeof data), S_OK);
  CHECK(!memcmp(data, expected + (SECTORS - 128) * SECTOR, sizeof data));
  memset(data, 0x5a, sizeof data);
  EQ(ask(T_OUT, 100, data, sizeof data), S_OK);
  memset(expected + 100 * SECTOR, 0x5a, sizeof data);
  same_image();
  EQ(ask(T_FLUSH, 0, NULL, 0), S_OK);
  EQ(ask(T_IN, 7, NULL, 0), S_OK); /* nothing is little, but no error */
  char id[40];
  memset(id, 'x', sizeof id);
  EQ(ask(T_GET_ID, 0, id, 20), S_OK);
  CHECK(!memcmp(id, "the serial\0\0\0\0\0\0\0\0\0\0x", 21));
  EQ(ask(T_GET_ID, 0, id, 4), S_OK);
  EQ(ask(T_GET_ID, 0, id, 40), S_OK);
  EQ(id[39], 0);
  struct blk_counters c;
  blk_get_counters(blk, &c);
  EQ(c.read_ops, 3);
  EQ(c.write_ops, 1);
  EQ(c.flushes, 1);
  EQ(c.errors, 0);
  EQ(c.read_bytes, SECTOR + sizeof data);
  EQ(c.write_bytes, sizeof data);
  end();
}

static void malformed(void) {
  begin((struct blk_setup){0}, ALL, 64);
  static uint8_t data[4096];
  static const struct {
    uint32_t type;
    uint64_t sector;
    size_t len;
    uint8_t status;
  } cases[] = {
      {T_IN, 0, 511, S_IOERR},
      {T_IN, 0, 1, S_IOERR},
      {T_IN, 0, 513, S_IOERR},
      {T_OUT, 0, 511, S_IOERR},
      {T_IN, SECTORS, 512, S_IOERR},
      {T_IN, SECTORS - 1, 1024, S_IOERR},
      {T_OUT, SECTORS, 512, S_IOERR},
      {T_OUT, SECTORS - 1, 1024, S_IOERR},
      {T_OUT, UINT64_MAX, 512, S_IOERR},
      {T_OUT, UINT64_MAX - 1, 1024, S_IOERR},
      {T_IN, UINT64_MAX / SECTOR + 1, 512, S_IOERR},
      {T_IN, UINT64_C(1) << 55, 512, S_IOERR},
      {T_IN, INT64_MAX / SECTOR, 512, S_IOERR},
      {T_IN, SECTORS + 1, 0, S_IOERR},
      {2, 0, 512, S_UNSUPP},
      {3, 0, 0, S_UNSUPP},
      {5, 0, 512, S_UNSUPP},
      {9, 0, 512, S_UNSUPP},
      {10, 0, 512, S_UNSUPP},
      {14, 0, 16, S_UNSUPP},
      {UINT32_MAX, 0, 512, S_UNSUPP},
      {T_DISCARD, 0, 0, S_IOERR},
      {T_DISCARD, 0, 15, S_IOERR},
      {T_DISCARD, 0, 17, S_IOERR},
      {T_DISCARD, 0, 33 * 16, S_IOERR},
      {T_WRITE_ZEROES, 0, 0, S_IOERR},
      {T_WRITE_ZEROES, 0, 4095, S_IOERR},
      {T_WRITE_ZEROES, 0, 4096, S_IOERR},
  };
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
    EQ(ask(cases[i].type, cases[i].sector, data, cases[i].len) + (i << 8), cases[i].status + (i << 8));
  static const struct {
    uint32_t type;
    struct segment s;
    uint8_t status;
  } ranges[] = {
      {T_DISCARD, {0, 8, 1}, S_UNSUPP}, /* unmap is no flag of discard */
      {T_DISCARD, {0, 8, 2}, S_UNSUPP},
      {T_DISCARD, {0, 8, 1u << 31}, S_UNSUPP},
      {T_DISCARD, {SECTORS, 1, 0}, S_IOERR},
      {T_DISCARD, {SECTORS - 1, 2, 0}, S_IOERR},
      {T_DISCARD, {UINT64_MAX, 1, 0}, S_IOERR},
      {T_DISCARD, {UINT64_MAX, UINT32_MAX, 0}, S_IOERR},
      {T_DISCARD, {0, UINT32_MAX, 0}, S_IOERR},
      {T_DISCARD, {SECTORS, 0, 0}, S_OK},
      {T_DISCARD, {SECTORS + 1, 0, 0}, S_IOERR},
      {T_WRITE_ZEROES, {0, 8, 2}, S_UNSUPP},
      {T_WRITE_ZEROES, {0, 8, 3}, S_UNSUPP},
      {T_WRITE_ZEROES, {SECTORS - 1, 2, 1}, S_IOERR},
      {T_WRITE_ZEROES, {UINT64_MAX - 7, 8, 0}, S_IOERR},
      {T_WRITE_ZEROES, {0, MAX_RANGE + 1, 0}, S_IOERR},
  };
  for (unsigned i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    struct segment both[2] = {{0, 8, 0}, ranges[i].s}; /* the good one is not carried out either */
    if (ranges[i].status) EQ(ask(ranges[i].type, 0, both, 32) + (i << 8), ranges[i].status + (i << 8));
    EQ(ask(ranges[i].type, 0, both + 1, 16) + (i << 8), ranges[i].status + (i << 8));
  }
  same_image();
  struct blk_counters c;
  blk_get_counters(blk, &c);
  EQ(c.errors, sizeof cases / sizeof *cases + 2 * (sizeof ranges / sizeof *ranges) - 2);
  end();
}

/* Requests that lack something, or are cut where no driver cuts them. */
static void shapes(void) {
  begin((struct blk_setup){0}, ALL, 64);
  uint8_t *header = calloc(1, 16), *data = malloc(1024), *status = malloc(1);
  /* no status byte at all */
  struct iovec out = {header, 16}, in = {data, 512};
  struct fake_request *r = fake_post(&queue, &out, 1, NULL, 0);
  fake_wait(&queue, r);
  EQ(r->written, 0);
  /* nothing at all */
  r = fake_post(&queue, NULL, 0, NULL, 0);
  fake_wait(&queue, r);
  EQ(r->written, 0);
  /* a header too short, by one and by all */
  for (size_t len = 0; len <= 15; len += 15) {
    out.iov_len = len, in = (struct iovec){status, 1}, *status = UNTOUCHED;
    r = fake_post(&queue, &out, len ? 1 : 0, &in, 1);
    fake_wait(&queue, r);
    EQ(*status, S_IOERR);
    EQ(r->written, 1);
  }
  /* header byte by byte, data in odd pieces, status in the last piece of them: §2.7.4.3 allows it all */
  *(uint64_t *)(void *)(header + 8) = 5;
  struct iovec outs[16], ins[3] = {{data, 1}, {data + 1, 510}, {data + 511, 2}};
  for (int i = 0; i < 16; i++) outs[i] = (struct iovec){header + i, 1};
  data[512] = UNTOUCHED;
  r = fake_post(&queue, outs, 16, ins, 3);
  fake_wait(&queue, r);
  EQ(data[512], S_OK);
  EQ(r->written, 513);
  CHECK(!memcmp(data, expected + 5 * SECTOR, SECTOR));
  /* a write whose header and data are one piece */
  memset(data, 0x77, 1024);
  memcpy(data, &(struct header){T_OUT, 0, 9}, 16);
  out = (struct iovec){data, 16 + 512}, in = (struct iovec){status, 1};
  r = fake_post(&queue, &out, 1, &in, 1);
  fake_wait(&queue, r);
  EQ(*status, S_OK);
  memset(expected + 9 * SECTOR, 0x77, SECTOR);
  same_image();
  free(header), free(data), free(status);
  end();
}

static void read_only(void) {
  int writable = image;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", writable);
  image = open(path, O_RDONLY);
  CHECK(image >= 0);
  begin((struct blk_setup){.readonly = true}, F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 16);
  uint8_t data[512] = {0};
  struct segment s = {0, 8, 0};
  EQ(ask(T_OUT, 0, data, 512), S_IOERR);
  EQ(ask(T_DISCARD, 0, &s, 16), S_IOERR);
  EQ(ask(T_WRITE_ZEROES, 0, &s, 16), S_IOERR);
  EQ(ask(T_FLUSH, 0, NULL, 0), S_OK);
  EQ(ask(T_IN, 0, data, 512), S_OK);
  CHECK(!memcmp(data, expected, 512));
  end();
  close(image);
  image = writable;
  same_image();
}

static void not_negotiated(void) {
  begin((struct blk_setup){0}, 0, 16);
  struct segment s = {0, 8, 0};
  uint8_t data[512];
  EQ(ask(T_DISCARD, 0, &s, 16), S_UNSUPP);
  EQ(ask(T_WRITE_ZEROES, 0, &s, 16), S_UNSUPP);
  memset(data, 1, sizeof data);
  EQ(ask(T_OUT, 2, data, 512), S_OK); /* neither FLUSH nor CONFIG_WCE: writes are durable at once */
  memset(expected + 2 * SECTOR, 1, 512);
  same_image();
  end();
}

static void zeroes_and_discards(void) {
  begin((struct blk_setup){.sparse = true}, ALL, 16);
  struct segment many[MAX_SEGMENTS];
  for (uint32_t i = 0; i < MAX_SEGMENTS; i++) many[i] = (struct segment){i * 16, 8, i & 1};
  EQ(ask(T_WRITE_ZEROES, 0, many, sizeof many), S_OK);
  for (uint32_t i = 0; i < MAX_SEGMENTS; i++) memset(expected + i * 16 * SECTOR, 0, 8 * SECTOR);
  same_image();
  struct segment odd = {1001, 3, 0};
  EQ(ask(T_WRITE_ZEROES, 0, &odd, 16), S_OK);
  memset(expected + 1001 * SECTOR, 0, 3 * SECTOR);
  same_image();
  struct segment most = {512, SECTORS - 512, 0};
  struct stat before, after;
  fsync(image), fstat(image, &before);
  EQ(ask(T_DISCARD, 0, &most, 16), S_OK);
  memset(expected + 512 * SECTOR, 0, (SECTORS - 512) * SECTOR);
  same_image();
  fstat(image, &after);
  CHECK(after.st_blocks < before.st_blocks);
  EQ(after.st_size, before.st_size);
  end();
}

/* Larger than one operation can be, and in more pieces. */
static void large(void) {
  enum { PIECES = 1500 };
  begin((struct blk_setup){0}, ALL, 2048);
  uint8_t *data = malloc(PIECES * SECTOR), *copy = malloc(PIECES * SECTOR), status = UNTOUCHED;
  struct header h = {T_IN, 0, 1};
  static struct iovec in[PIECES + 1];
  for (int i = 0; i < PIECES; i++) in[i] = (struct iovec){data + (PIECES - 1 - i) * SECTOR, SECTOR};
  in[PIECES] = (struct iovec){&status, 1};
  struct fake_request *r = fake_post(&queue, &(struct iovec){&h, 16}, 1, in, PIECES + 1);
  fake_wait(&queue, r);
  EQ(status, S_OK);
  for (int i = 0; i < PIECES; i++) memcpy(copy + i * SECTOR, data + (PIECES - 1 - i) * SECTOR, SECTOR);
  CHECK(!memcmp(copy, expected + SECTOR, PIECES * SECTOR));
  free(data), free(copy);
  end();
}

/* O_DIRECT with buffers at odd addresses: they go through a bounce buffer, in parts. */
static void direct(void) {
  int buffered = image;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", buffered);
  fsync(buffered);
  image = open(path, O_RDWR | O_DIRECT);
  if (image < 0) {
    image = buffered;
    fputs("no direct I/O here\n", stderr);
    return;
  }
  begin((struct blk_setup){.direct = true}, ALL, 64);
  struct blk_info info;
  blk_get_info(blk, &info);
  size_t len = 300 << 10, first = info.block;
  uint8_t *data = malloc(len + 3);
  EQ(ask(T_IN, 8, data + 3, len), S_OK);
  CHECK(!memcmp(data + 3, expected + 8 * SECTOR, len));
  for (size_t i = 0; i < len; i++) data[i + 1] = (uint8_t)(i * 13);
  EQ(ask(T_OUT, 16, data + 1, len), S_OK);
  memcpy(expected + 16 * SECTOR, data + 1, len);
  EQ(ask(T_OUT, 0, data + 1, first), S_OK);
  memcpy(expected, data + 1, first);
  end();
  close(image);
  image = buffered;
  same_image();
  free(data);
}

/* A file whose last sector is not whole, and one that became shorter than it was. */
static void short_file(void) {
  int whole = image;
  char path[4096];
  snprintf(path, sizeof path, "%s/short", folder);
  image = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(image >= 0);
  EQ(pwrite(image, expected, 1000, 0), 1000);
  begin((struct blk_setup){0}, ALL, 16);
  struct blk_info info;
  blk_get_info(blk, &info);
  EQ(info.capacity, 2);
  uint8_t data[1024], want[1024] = {0};
  memset(data, 0xff, sizeof data);
  memcpy(want, expected, 1000);
  EQ(ask(T_IN, 0, data, 1024), S_OK);
  CHECK(!memcmp(data, want, 1024));
  EQ(ask(T_IN, 2, data, 512), S_IOERR);
  EQ(ftruncate(image, 100), 0); /* under the device: what is gone is no zeroes */
  EQ(ask(T_IN, 0, data, 1024), S_IOERR);
  EQ(blk_resize(blk), 0);
  blk_get_info(blk, &info);
  EQ(info.capacity, 1);
  EQ(ask(T_IN, 1, data, 512), S_IOERR);
  EQ(ask(T_IN, 0, data, 512), S_OK);
  EQ(ftruncate(image, 4096), 0);
  EQ(blk_resize(blk), 0);
  EQ(ask(T_IN, 7, data, 512), S_OK);
  end();
  close(image);
  image = whole;
}

/* Stop and start again in the middle of writes: all that was begun is finished, once. */
static void stops_in_the_middle(void) {
  enum { N = 40 };
  begin((struct blk_setup){0}, ALL, 32);
  static uint8_t data[N][16 << 10], status[N];
  struct header h[N];
  for (int round = 0; round < 20; round++) {
    struct fake_request *r[N];
    for (int i = 0; i < N; i++) {
      memset(data[i], round + i, sizeof data[i]);
      h[i] = (struct header){i % 8 == 7 ? T_FLUSH : T_OUT, 0, (uint64_t)i * 32};
      struct iovec out[] = {{&h[i], 16}, {data[i], sizeof data[i]}};
      status[i] = UNTOUCHED;
      r[i] = fake_post(&queue, out, h[i].type == T_OUT ? 2 : 1, &(struct iovec){&status[i], 1}, 1);
      if (h[i].type == T_OUT) memcpy(expected + h[i].sector * SECTOR, data[i], sizeof data[i]);
    }
    fake_queue_halt(&queue);
    blk_stop(blk);
    EQ(queue.pushed, queue.popped); /* nothing is in flight */
    EQ(blk_start(blk, 0, &queue), 0);
    for (int i = 0; i < N; i++) fake_wait(&queue, r[i]);
    for (int i = 0; i < N; i++) EQ(status[i], S_OK);
  }
  EQ(queue.pushed, 20 * N);
  same_image();
  end();
}

/* What ends at once is answered while there is always more of it. */
static void refilled(void) {
  enum { N = 1000 };
  begin((struct blk_setup){0}, ALL, 64);
  uint8_t id[20], status;
  queue.refills = N;
  void *header = post(T_GET_ID, 0, id, sizeof id, &status)->iov[0].iov_base;
  uint32_t flushed, flushes;
  do {
    usleep(1000);
    pthread_mutex_lock(&queue.lock);
    flushed = queue.flushed, flushes = queue.flushes;
    pthread_mutex_unlock(&queue.lock);
  } while (flushed <= N);
  CHECK(flushes >= 3);
  EQ(status, S_OK);
  end();
  free(header);
}

static void limited(void) {
  /* 20 operations at once, then one each ms */
  begin((struct blk_setup){.ops = {20, 0, 20}}, ALL, 64);
  uint8_t data[512];
  uint64_t before = fake_api.now_ns();
  for (int i = 0; i < 40; i++) EQ(ask(T_IN, 0, data, 512), S_OK);
  uint64_t ms = (fake_api.now_ns() - before) / 1000000;
  CHECK(ms >= 19); /* a lower bound is no race: no more can have come meanwhile */
  end();
  /* stopped while it waits for tokens: the request stays in the ring */
  begin((struct blk_setup){.bw = {512, 0, 1000000}}, ALL, 64);
  EQ(ask(T_IN, 0, data, 512), S_OK);
  uint8_t status;
  struct fake_request *r = post(T_IN, 0, data, 512, &status);
  void *header = r->iov[0].iov_base;
  fake_queue_halt(&queue);
  blk_stop(blk);
  EQ(r->done, false);
  EQ(status, UNTOUCHED);
  EQ(queue.popped, 1);
  free(header);
  EQ(blk_start(blk, 0, &queue), 0);
  end();
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  backend = argv[1], folder = argv[2];
  char path[4096];
  snprintf(path, sizeof path, "%s/image", folder);
  image = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(image >= 0);
  static void (*const tests[])(void) = {reads_and_writes, malformed,  shapes, read_only, not_negotiated,
                                        zeroes_and_discards, large, direct, short_file, stops_in_the_middle, refilled, limited};
  for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
    fill();
    tests[i]();
  }
  close(image);
  puts("ok");
  return 0;
}
