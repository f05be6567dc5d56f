/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a disk: what the file or block device is and can do. */
#ifndef DISK_H
#define DISK_H

#include <stdbool.h>
#include <stdint.h>

enum { SECTOR = 512 };

struct disk {
  int fd;
  bool readonly, direct;
  bool sparse;               /* give back what the guest does not need */
  bool is_device;            /* a block device, not a file */
  _Atomic uint64_t capacity; /* in sectors of 512 bytes, rounded up */
  uint32_t block;            /* logical block: bytes; positions and lengths of I/O are multiples of it */
  uint32_t mem_align;        /* what O_DIRECT wants of buffers */
  uint32_t physical;         /* bytes of a physical block */
  uint32_t alignment;        /* bytes from the start to the first physical block */
  uint32_t min_io, opt_io;   /* bytes; 0: unknown */
  uint32_t granularity;      /* of discards, bytes */
  uint32_t io_max;           /* more bytes at once the kernel would have to split, which makes them slow; 0: unknown */
};

/* Fill in all that the fd tells; 0 or -errno. fd, readonly and direct are set. */
int disk_probe(struct disk *disk);
/* Read the size again; 0 or -errno. */
int disk_size(struct disk *disk);

#endif
