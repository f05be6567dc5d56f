/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of the guest (virtio 1.2 §5.2.6): checked here, once, then turned into operations of the host, one
 * at a time. Knows nothing of queues, threads or io_uring.
 *
 *   if (request_begin(r, disk, …)) do { run r->io, giving `res` as a system call would } while (request_step(r, res));
 *   *r->status has the answer, request_written(r) what to say of the length
 */
#ifndef REQUEST_H
#define REQUEST_H

#include <sys/uio.h>

#include "disk.h"
#include "vmmcore.h"

/* §5.2.6 */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
/* §5.2.3 */
enum { F_RO = 1 << 5, F_FLUSH = 1 << 9, F_CONFIG_WCE = 1 << 11, F_DISCARD = 1 << 13, F_WRITE_ZEROES = 1 << 14 };

enum {
  ID_BYTES = 20,
  MAX_SEGMENTS = 32,         /* of one discard or write zeroes request */
  MAX_RANGE = 1 << 22,       /* sectors of such a segment: 2 GiB */
  FEW_PIECES = 4,            /* of data in most requests */
  MAX_PIECES = 1024,         /* IOV_MAX: of one operation */
  BOUNCE_BYTES = 128 << 10,  /* of one operation through a bounce buffer */
  MAX_RETRIES = 100,         /* of an operation that says EAGAIN or EINTR */
};

enum io_kind { IO_READ, IO_WRITE, IO_SYNC, IO_ALLOCATE };

/* An operation of the host: preadv2, pwritev2, fdatasync or fallocate. */
struct io {
  enum io_kind kind;
  int flags;          /* RWF_*; mode of fallocate */
  uint64_t offset;
  uint64_t len;       /* bytes */
  struct iovec *iov;
  uint32_t n;
};

/* §5.2.6: a range of a discard or write zeroes request, as the driver wrote it */
struct segment {
  uint64_t sector;
  uint32_t sectors, flags;
};

/* What a request is checked against. */
struct limits {
  const struct disk *disk;
  uint64_t features; /* accepted by the driver */
  bool writethrough;
  const char *id;    /* ID_BYTES, padded with NUL */
};

struct request {
  struct request *next; /* in a list of its owner */
  void *owner;
  struct vmm_chain chain;
  struct iovec *iov;    /* as popped; `cap` entries */
  struct iovec *room;   /* `cap` entries */
  struct iovec *data;   /* what is left of the data, ours to change: in `few` or in `room` */
  uint8_t *status;      /* the last writable byte; NULL: there is none */
  uint8_t *bounce;
  const struct disk *disk;
  uint64_t offset, left, bytes; /* where to go on, how much is left, and how much it was */
  uint32_t type, n, at;         /* pieces of data, and the first that is left */
  uint8_t result;
  bool writethrough, fill; /* fill: the host cannot zero a range, write zeroes */
  bool bounced;            /* r->io goes through the bounce buffer */
  unsigned retries;
  int res; /* of the operation, from the thread pool */
  struct io io;
  struct iovec one, few[FEW_PIECES];
};

/* Bytes of guest data that the request moves. Valid after request_begin(). */
static inline uint64_t request_bytes(const struct request *r) {
  return r->bytes;
}

/* Takes up r->chain and r->iov. True: run r->io; false: it is finished. */
bool request_begin(struct request *r, const struct limits *limits);
/* The operation gave `res` (bytes, 0 or -errno). True: run r->io, there is more to do; false: finished. */
bool request_step(struct request *r, int64_t res);
/* Writes the status byte; returns the length for the used ring. */
uint32_t request_finish(struct request *r);

#endif
