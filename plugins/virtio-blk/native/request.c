/* SPDX-License-Identifier: Apache-2.0 */
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

static uint8_t zeroes[64 << 10] __attribute__((aligned(65536)));
#define PIECE {zeroes, sizeof zeroes}
static struct iovec many[] = {PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, PIECE};

/* --- guest memory: each byte is read once --- */

/* Copies the first `len` bytes of the pieces out and steps over them: *piece, *skip name the next byte. */
static bool take(const struct iovec *iov, uint32_t n, void *out, size_t len, uint32_t *piece, size_t *skip) {
  uint8_t *to = out;
  while (len && *piece < n) {
    size_t part = iov[*piece].iov_len - *skip;
    if (part > len) part = len;
    memcpy(to, (const uint8_t *)iov[*piece].iov_base + *skip, part);
    to += part, len -= part, *skip += part;
    if (*skip == iov[*piece].iov_len) ++*piece, *skip = 0;
  }
  return !len;
}

/* r->data: the pieces from (piece, skip) to `end`, without the last `tail` bytes. Neighbours are joined. */
static void collect(struct request *r, uint32_t piece, size_t skip, uint32_t end, uint64_t len) {
  r->n = r->at = 0;
  r->left = r->bytes = len;
  r->data = end - piece > FEW_PIECES ? r->room : r->few;
  for (; piece < end && len; piece++, skip = 0) {
    size_t part = r->iov[piece].iov_len - skip;
    uint8_t *base = (uint8_t *)r->iov[piece].iov_base + skip;
    if (part > len) part = len;
    if (!part) continue;
    len -= part;
    struct iovec *last = r->n ? &r->data[r->n - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == base) last->iov_len += part;
    else r->data[r->n++] = (struct iovec){base, part};
  }
}

/* --- checks --- */

static bool finished(struct request *r, uint8_t result) {
  r->result = result;
  return false;
}

/* Does [sector, sector + count) lie on the disk? */
static bool on_disk(const struct disk *disk, uint64_t sector, uint64_t count) {
  uint64_t capacity = disk->capacity;
  return sector <= capacity && count <= capacity - sector;
}

static bool next_io(struct request *r);
static bool next_range(struct request *r);

static bool begin_data(struct request *r, uint64_t sector) {
  const struct disk *disk = r->disk;
  if (r->left % SECTOR || !on_disk(disk, sector, r->left / SECTOR)) return finished(r, S_IOERR);
  if (r->type == T_OUT && disk->readonly) return finished(r, S_IOERR);
  r->offset = sector * SECTOR;
  if ((r->offset | r->left) % disk->block) return finished(r, S_IOERR); /* not whole logical blocks (§5.2.5.2) */
  if (!r->left) return finished(r, S_OK);
  return next_io(r);
}

static bool begin_ranges(struct request *r, const struct limits *limits, uint32_t piece, size_t skip, uint64_t len) {
  struct segment *segments = (struct segment *)(void *)r->room;
  uint64_t feature = r->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES;
  if (!(limits->features & feature)) return finished(r, S_UNSUPP);
  if (r->disk->readonly) return finished(r, S_IOERR);
  if (!len || len % sizeof *segments || len / sizeof *segments > MAX_SEGMENTS) return finished(r, S_IOERR);
  take(r->iov, r->chain.n_out, segments, len, &piece, &skip);
  r->n = (uint32_t)(len / sizeof *segments);
  r->at = 0;
  r->left = r->bytes = 0;
  for (uint32_t i = 0; i < r->n; i++) { /* all of them before the first is carried out */
    uint32_t allowed = r->type == T_WRITE_ZEROES; /* only `unmap`, and only there (§5.2.6.2) */
    if (segments[i].flags & ~allowed) return finished(r, S_UNSUPP);
    if (segments[i].sectors > MAX_RANGE || !on_disk(r->disk, segments[i].sector, segments[i].sectors))
      return finished(r, S_IOERR);
    if ((segments[i].sector | segments[i].sectors) * SECTOR % r->disk->block) return finished(r, S_IOERR);
  }
  return next_range(r);
}

static bool begin_id(struct request *r, const char *id) {
  size_t done = 0;
  for (uint32_t i = 0; i < r->n; i++) {
    size_t len = r->data[i].iov_len, part = done < ID_BYTES ? ID_BYTES - done : 0;
    if (part > len) part = len;
    memcpy(r->data[i].iov_base, id + done, part);
    memset((uint8_t *)r->data[i].iov_base + part, 0, len - part);
    done += len;
  }
  return finished(r, S_OK);
}

bool request_begin(struct request *r, const struct limits *limits) {
  const struct vmm_chain *chain = &r->chain;
  const struct iovec *in = r->iov + chain->n_out;
  struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  uint32_t piece = 0;
  size_t skip = 0;
  r->disk = limits->disk;
  r->writethrough = limits->writethrough;
  r->fill = false;
  r->retries = 0;
  r->n = r->at = 0;
  r->left = r->bytes = 0;
  r->type = UINT32_MAX;
  r->status = NULL;
  for (uint32_t i = chain->n_in; i-- && !r->status;)
    if (in[i].iov_len) r->status = (uint8_t *)in[i].iov_base + in[i].iov_len - 1;
  if (!r->status || !take(r->iov, chain->n_out, &header, sizeof header, &piece, &skip)) return finished(r, S_IOERR);
  r->type = header.type;
  uint64_t out = chain->out_len - sizeof header;
  switch (header.type) {
    case T_IN:
      collect(r, chain->n_out, 0, chain->n_out + chain->n_in, chain->in_len - 1);
      return begin_data(r, header.sector);
    case T_OUT: collect(r, piece, skip, chain->n_out, out); return begin_data(r, header.sector);
    case T_FLUSH: r->io = (struct io){.kind = IO_SYNC}; return true;
    case T_GET_ID:
      collect(r, chain->n_out, 0, chain->n_out + chain->n_in, chain->in_len - 1);
      r->left = r->bytes = 0;
      return begin_id(r, limits->id);
    case T_DISCARD:
    case T_WRITE_ZEROES: return begin_ranges(r, limits, piece, skip, out);
    default: return finished(r, S_UNSUPP);
  }
}

uint32_t request_finish(struct request *r) {
  free(r->bounce);
  r->bounce = NULL;
  if (!r->status) return 0;
  *r->status = r->result;
  return (uint32_t)r->chain.in_len; /* the status byte is the last one */
}

/* --- reading and writing --- */

/* Copy between the bounce buffer and what is left of the data. */
static void through_bounce(struct request *r, size_t len, bool to_guest) {
  uint8_t *at = r->bounce;
  for (uint32_t i = r->at; len; i++) {
    size_t part = r->data[i].iov_len < len ? r->data[i].iov_len : len;
    if (to_guest) memcpy(r->data[i].iov_base, at, part);
    else memcpy(at, r->data[i].iov_base, part);
    at += part, len -= part;
  }
}

static bool use_bounce(struct request *r) {
  if (!r->bounce) {
    void *buffer;
    if (posix_memalign(&buffer, r->disk->mem_align < 4096 ? 4096 : r->disk->mem_align, BOUNCE_BYTES))
      return finished(r, S_IOERR);
    r->bounce = buffer;
  }
  size_t len = r->left < BOUNCE_BYTES ? r->left : BOUNCE_BYTES;
  if (r->type == T_OUT) through_bounce(r, len, false);
  r->bounced = true;
  r->one = (struct iovec){r->bounce, len};
  r->io.iov = &r->one;
  r->io.n = 1;
  r->io.len = len;
  return true;
}

/* Make r->io shorter: the kernel hands what a device takes only in parts to a thread, for it may have to wait. */
static bool cut(struct request *r) {
  struct io *io = &r->io;
  uint32_t max = r->disk->io_max, parts = (uint32_t)((io->len + max - 1) / max);
  uint64_t part = (io->len / parts + 4095) & ~UINT64_C(4095);
  if (part > max) part = max;
  uint64_t len = 0;
  uint32_t n = 0;
  while (len < part && len + io->iov[n].iov_len <= max) len += io->iov[n++].iov_len;
  if (!n) {
    r->one = (struct iovec){io->iov->iov_base, part};
    io->iov = &r->one, n = 1, len = part;
  }
  io->n = n, io->len = len;
  return true;
}

/* The next operation for what is left of the data. */
static bool next_io(struct request *r) {
  const struct disk *disk = r->disk;
  bool write = r->type == T_OUT;
  r->io = (struct io){.kind = write ? IO_WRITE : IO_READ,
                      .flags = write && r->writethrough ? RWF_DSYNC : 0,
                      .offset = r->offset,
                      .iov = r->data + r->at};
  uint32_t n = r->n - r->at, i = 0;
  uintptr_t unaligned = 0;
  if (n > MAX_PIECES) n = MAX_PIECES;
  for (; i < n; i++) {
    const struct iovec *piece = &r->io.iov[i];
    unaligned |= ((uintptr_t)piece->iov_base & (disk->mem_align - 1)) | (piece->iov_len & (disk->block - 1));
    r->io.len += piece->iov_len;
  }
  r->io.n = n;
  r->bounced = false;
  if (disk->direct && unaligned) return use_bounce(r);
  return disk->io_max && r->io.len > disk->io_max ? cut(r) : true;
}

static void advance(struct request *r, uint64_t len) {
  r->offset += len;
  r->left -= len;
  while (len) {
    struct iovec *piece = &r->data[r->at];
    uint64_t part = piece->iov_len < len ? piece->iov_len : len;
    piece->iov_base = (uint8_t *)piece->iov_base + part;
    piece->iov_len -= part;
    len -= part;
    if (!piece->iov_len) r->at++;
  }
}

/* The file has ended. Only the last sector may lie half behind the end: it reads as zeroes there. */
static bool past_end(struct request *r) {
  if (r->left >= SECTOR || (r->offset + r->left) / SECTOR != r->disk->capacity) return finished(r, S_IOERR);
  for (; r->at < r->n; r->at++) memset(r->data[r->at].iov_base, 0, r->data[r->at].iov_len);
  r->left = 0;
  return finished(r, S_OK);
}

static bool step_data(struct request *r, uint64_t res) {
  if (!res) return r->type == T_IN ? past_end(r) : finished(r, S_IOERR);
  if (res > r->io.len) return finished(r, S_IOERR);
  if (r->bounced && r->type == T_IN) through_bounce(r, res, true);
  advance(r, res);
  if (!r->left) return finished(r, S_OK);
  if (r->disk->direct && res % r->disk->block) return r->type == T_IN ? past_end(r) : finished(r, S_IOERR);
  return next_io(r);
}

/* --- ranges --- */

/* The next zeroes to write. */
static bool fill_io(struct request *r) {
  r->io = (struct io){.kind = IO_WRITE, .flags = r->writethrough ? RWF_DSYNC : 0, .offset = r->offset};
  if (r->left >= sizeof zeroes) { /* the same piece of nothing, several times */
    uint64_t most = sizeof many / sizeof *many;
    r->io.n = (uint32_t)(r->left / sizeof zeroes < most ? r->left / sizeof zeroes : most);
    r->io.len = r->io.n * sizeof zeroes;
    r->io.iov = many;
  } else {
    r->one = (struct iovec){zeroes, r->left};
    r->io.iov = &r->one, r->io.n = 1, r->io.len = r->left;
  }
  return true;
}

/* The operation for the next segment that is not empty. */
static bool next_range(struct request *r) {
  const struct segment *segments = (const struct segment *)(const void *)r->room;
  while (r->at < r->n && !segments[r->at].sectors) r->at++;
  if (r->at == r->n) {
    if (r->type == T_WRITE_ZEROES && r->writethrough && r->io.kind != IO_SYNC) {
      r->io = (struct io){.kind = IO_SYNC};
      return true;
    }
    return finished(r, S_OK);
  }
  const struct segment *s = &segments[r->at];
  r->offset = s->sector * SECTOR;
  r->left = (uint64_t)s->sectors * SECTOR;
  bool unmap = r->type == T_DISCARD || (s->flags & 1 && r->disk->sparse);
  if (r->fill) return fill_io(r);
  r->io = (struct io){.kind = IO_ALLOCATE,
                      .flags = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
                      .offset = r->offset,
                      .len = r->left};
  return true;
}

static bool step_range(struct request *r, int64_t res) {
  if (r->io.kind == IO_SYNC) return finished(r, res ? S_IOERR : S_OK);
  if (r->io.kind == IO_WRITE) {
    if (res <= 0 || (uint64_t)res > r->left) return finished(r, S_IOERR);
    r->offset += (uint64_t)res;
    r->left -= (uint64_t)res;
    if (r->left) return fill_io(r);
  } else if (res == -EOPNOTSUPP || res == -ENOSYS) {
    if (r->type == T_WRITE_ZEROES) { /* this file system cannot: zeroes are written */
      r->fill = true;
      return fill_io(r);
    } /* a discard is only advice */
  } else if (res) {
    return finished(r, S_IOERR);
  }
  r->at++;
  return next_range(r);
}

bool request_step(struct request *r, int64_t res) {
  if (res == -EAGAIN || res == -EINTR) return r->retries++ < MAX_RETRIES ? true : finished(r, S_IOERR);
  if (r->type == T_DISCARD || r->type == T_WRITE_ZEROES) return step_range(r, res);
  if (res < 0) return finished(r, S_IOERR);
  if (r->type == T_FLUSH) return finished(r, S_OK);
  return step_data(r, (uint64_t)res);
}
