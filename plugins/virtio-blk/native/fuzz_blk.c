/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target for requests: whatever a driver writes, nothing outside of its pieces is touched, nothing beyond
 * the disk is asked of the host, a read-only disk stays as it is, and the request comes to an end.
 *
 * Input: 8 bytes of choices (disk, features, how the host answers), then the pieces of one request after the other:
 * a count of pieces for the device to read and to write, the length of each, and the bytes of those to read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "request.h"

enum { SECTORS = 64, CAP = 48 };

#define CHECK(what)                                                                          \
  do {                                                                                       \
    if (!(what)) fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what), abort(); \
  } while (0)

struct input {
  const uint8_t *at, *end;
};

static uint8_t byte(struct input *in) {
  return in->at < in->end ? *in->at++ : 0;
}

/* Each piece is an allocation of its own, so that the sanitizer sees every byte too far. */
static uint32_t pieces(struct input *in, struct iovec *iov, uint32_t n, uint64_t *total, int filled) {
  for (uint32_t i = 0; i < n; i++) {
    static const uint16_t usual[] = {0, 16, 512, 1024, 1, 20, 4096, 1536};
    uint8_t choice = byte(in);
    size_t len = choice < 128 ? choice : usual[choice % 8];
    if (!len) len = 1;
    uint8_t *p = malloc(len);
    CHECK(p);
    memset(p, 0x11, len);
    for (size_t k = 0; filled && k < len && k < 64; k++) p[k] = byte(in);
    iov[i] = (struct iovec){p, len};
    *total += len;
  }
  return n;
}

/* What the host answers: the operation is done on `image`, all or a part of it, or it fails. */
static int64_t answer(const struct disk *disk, const struct io *io, uint8_t *image, uint8_t how, unsigned step) {
  static const int errors[] = {EIO, ENOSPC, EAGAIN, EINTR, EOPNOTSUPP, EINVAL, ENOSYS, EFBIG};
  uint64_t size = disk->capacity * SECTOR, sum = 0, done = 0;
  if (how & 0x80 && step % 3 == (how & 3u)) return -errors[how >> 3 & 7];
  if (io->kind == IO_SYNC) return 0;
  CHECK(io->offset <= size && io->len <= size - io->offset && io->len);
  CHECK(io->offset % disk->block == 0 || disk->capacity * SECTOR % disk->block);
  CHECK(io->kind == IO_READ || !disk->readonly);
  if (io->kind == IO_ALLOCATE) {
    memset(image + io->offset, 0, io->len);
    return 0;
  }
  for (uint32_t i = 0; i < io->n; i++) {
    CHECK(io->iov[i].iov_len);
    if (disk->direct) CHECK(!((uintptr_t)io->iov[i].iov_base % disk->mem_align) && !(io->iov[i].iov_len % disk->block));
    sum += io->iov[i].iov_len;
  }
  CHECK(sum == io->len && io->n && io->n <= MAX_PIECES);
  if (disk->io_max && io->iov->iov_len <= BOUNCE_BYTES && io->n > 1) CHECK(sum <= disk->io_max);
  if (how & 0x40 && sum > disk->block) sum = disk->block; /* a short answer */
  if (how & 0x20 && step % 4 == 3) return 0;              /* the end of the file */
  for (uint32_t i = 0; i < io->n && done < sum; i++) {
    size_t part = io->iov[i].iov_len < sum - done ? io->iov[i].iov_len : sum - done;
    uint8_t *there = image + io->offset + done;
    if (io->kind == IO_READ) memcpy(io->iov[i].iov_base, there, part);
    else memcpy(there, io->iov[i].iov_base, part);
    done += part;
  }
  return (int64_t)done;
}

static void one(struct input *in, const struct limits *limits, uint8_t *image, uint8_t how) {
  struct iovec iov[CAP], room[CAP], before[CAP];
  struct request r = {.iov = iov, .room = room};
  uint8_t shape = byte(in);
  r.chain.n_out = pieces(in, iov, shape & 15, &r.chain.out_len, 1);
  r.chain.n_in = pieces(in, iov + r.chain.n_out, shape >> 4, &r.chain.in_len, 0);
  uint32_t n = r.chain.n_out + r.chain.n_in;
  memcpy(before, iov, n * sizeof *iov);
  bool goes_on = request_begin(&r, limits);
  for (unsigned step = 0; goes_on; step++) {
    CHECK(step < 100000);
    goes_on = request_step(&r, answer(limits->disk, &r.io, image, how, step));
  }
  uint32_t written = request_finish(&r);
  CHECK(!memcmp(before, iov, n * sizeof *iov));
  CHECK(written == (r.chain.n_in ? r.chain.in_len : 0));
  if (r.chain.n_in) {
    const struct iovec *last = &iov[n - 1];
    CHECK(((uint8_t *)last->iov_base)[last->iov_len - 1] == r.result && r.result <= S_UNSUPP);
  }
  for (uint32_t i = 0; i < n; i++) free(iov[i].iov_base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, data + size};
  static uint8_t image[SECTORS * SECTOR], copy[sizeof image];
  static const char id[ID_BYTES] = "0123456789abcdefghij";
  for (size_t i = 0; i < sizeof image; i++) image[i] = (uint8_t)i;
  memcpy(copy, image, sizeof copy);
  uint8_t choice = byte(&in), how = byte(&in);
  struct disk disk = {.fd = -1, .readonly = choice & 1, .direct = choice & 2, .sparse = choice & 4};
  disk.block = choice & 8 ? 4096 : SECTOR;
  disk.mem_align = choice & 16 ? disk.block : 4;
  disk.capacity = choice & 32 ? SECTORS : SECTORS - 3;
  disk.io_max = disk.direct && how & 4 ? 8192 : 0;
  struct limits limits = {.disk = &disk, .writethrough = choice & 64, .id = id,
                          .features = choice & 128 ? F_DISCARD | F_WRITE_ZEROES | F_FLUSH : F_FLUSH};
  for (int i = 0; i < 8 && in.at < in.end; i++) one(&in, &limits, image, how);
  if (disk.readonly) CHECK(!memcmp(image, copy, sizeof copy));
  return 0;
}
