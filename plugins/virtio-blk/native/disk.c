/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_block_size(uint32_t n) {
  return n >= SECTOR && n <= 65536 && !(n & (n - 1));
}

int disk_size(struct disk *disk) {
  uint64_t bytes;
  if (disk->is_device) {
    if (ioctl(disk->fd, BLKGETSIZE64, &bytes)) return -errno;
  } else {
    struct stat st;
    if (fstat(disk->fd, &st)) return -errno;
    bytes = (uint64_t)st.st_size;
  }
  disk->capacity = bytes / SECTOR + (bytes % SECTOR != 0);
  return 0;
}

/* The least length that O_DIRECT reads of this file take, found out by reading. */
static uint32_t try_direct(int fd) {
  void *buffer;
  uint32_t block = SECTOR;
  if (posix_memalign(&buffer, 65536, 65536)) return 4096;
  while (block < 4096 && pread(fd, buffer, block, 0) < 0 && errno == EINVAL) block *= 2;
  free(buffer);
  return block;
}

static void probe_file(struct disk *disk, const struct stat *st) {
  disk->physical = is_block_size((uint32_t)st->st_blksize) ? (uint32_t)st->st_blksize : 4096;
  disk->min_io = disk->granularity = disk->physical;
  if (!disk->direct) return;
#ifdef STATX_DIOALIGN
  struct statx sx;
  if (!statx(disk->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && (sx.stx_mask & STATX_DIOALIGN) &&
      is_block_size(sx.stx_dio_offset_align)) {
    disk->block = sx.stx_dio_offset_align;
    disk->mem_align = sx.stx_dio_mem_align ? sx.stx_dio_mem_align : SECTOR;
    return;
  }
#endif
  disk->block = try_direct(disk->fd);
  disk->mem_align = disk->block;
}

static void probe_device(struct disk *disk) {
  int logical = 0, alignment = 0;
  unsigned n = 0;
  if (!ioctl(disk->fd, BLKSSZGET, &logical) && is_block_size((uint32_t)logical)) disk->block = (uint32_t)logical;
  disk->physical = disk->block;
  if (!ioctl(disk->fd, BLKPBSZGET, &n) && is_block_size(n) && n > disk->block) disk->physical = n;
  if (!ioctl(disk->fd, BLKALIGNOFF, &alignment) && alignment > 0) disk->alignment = (uint32_t)alignment;
  if (!ioctl(disk->fd, BLKIOMIN, &n)) disk->min_io = n;
  if (!ioctl(disk->fd, BLKIOOPT, &n)) disk->opt_io = n;
  unsigned short sectors;
  if (disk->direct && !ioctl(disk->fd, BLKSECTGET, &sectors) && sectors >= 65536 / SECTOR)
    disk->io_max = sectors * (uint32_t)SECTOR;
  disk->granularity = disk->physical;
  disk->mem_align = disk->block;
}

int disk_probe(struct disk *disk) {
  struct stat st;
  if (fstat(disk->fd, &st)) return -errno;
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) return -EINVAL;
  disk->is_device = S_ISBLK(st.st_mode);
  disk->block = disk->mem_align = SECTOR;
  if (disk->is_device) probe_device(disk);
  else probe_file(disk, &st);
  if (disk->physical < disk->block) disk->physical = disk->block;
  return disk_size(disk);
}
