/* SPDX-License-Identifier: Apache-2.0 */
#include "uring.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the oldest headers that this builds with. */
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

/* Other architectures may let the kernel read our wish for events before its note that there is work is seen. */
#if defined(__x86_64__)
enum { CAN_BE_QUIET = 1 };
#else
enum { CAN_BE_QUIET = 0 };
#endif

static int setup(uint32_t entries, struct io_uring_params *p) {
  static const uint32_t wishes[] = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
          IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL,                                  /* Linux 6.1 */
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,        /* 5.19 */
      0,
  };
  for (unsigned i = 0; i < sizeof wishes / sizeof *wishes; i++) {
    memset(p, 0, sizeof *p);
    p->flags = wishes[i];
    long fd = syscall(SYS_io_uring_setup, entries, p);
    if (fd >= 0) return (int)fd;
    if (errno != EINVAL) break;
  }
  return -errno;
}

static void *map(int fd, size_t len, uint64_t what) {
  return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)what);
}

static int map_rings(struct uring *u, const struct io_uring_params *p) {
  size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
  size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
  u->ring_len = sq > cq ? sq : cq;
  u->sqes_len = p->sq_entries * sizeof(struct io_uring_sqe);
  uint8_t *ring = map(u->fd, u->ring_len, IORING_OFF_SQ_RING);
  if (ring == MAP_FAILED) return -errno;
  u->ring = ring;
  void *sqes = map(u->fd, u->sqes_len, IORING_OFF_SQES);
  if (sqes == MAP_FAILED) return -errno;
  u->sqes = sqes;
  u->sq_head = (uint32_t *)(void *)(ring + p->sq_off.head);
  u->sq_tail = (uint32_t *)(void *)(ring + p->sq_off.tail);
  u->sq_flags = (uint32_t *)(void *)(ring + p->sq_off.flags);
  u->cq_head = (uint32_t *)(void *)(ring + p->cq_off.head);
  u->cq_tail = (uint32_t *)(void *)(ring + p->cq_off.tail);
  u->cq_flags = (uint32_t *)(void *)(ring + p->cq_off.flags);
  u->cqes = (struct io_uring_cqe *)(void *)(ring + p->cq_off.cqes);
  u->sq_mask = p->sq_entries - 1;
  u->cq_mask = p->cq_entries - 1;
  uint32_t *array = (uint32_t *)(void *)(ring + p->sq_off.array);
  for (uint32_t i = 0; i < p->sq_entries; i++) array[i] = i; /* entry i is always at place i */
  return 0;
}

int uring_open(struct uring *u, uint32_t entries, int file_fd) {
  struct io_uring_params p;
  /* EXT_ARG: Linux 5.11, which has all operations that are used here */
  const uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
  memset(u, 0, sizeof *u);
  u->event_fd = -1;
  u->fd = setup(entries, &p);
  if (u->fd < 0) return u->fd;
  u->deferred = p.flags & IORING_SETUP_DEFER_TASKRUN;
  u->disabled = p.flags & IORING_SETUP_R_DISABLED;
  int err = (p.features & needed) == needed ? map_rings(u, &p) : -ENOSYS;
  if (!err && syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_FILES, &file_fd, 1)) err = -errno;
  if (!err && (u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) err = -errno;
  if (!err && syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_EVENTFD, &u->event_fd, 1)) err = -errno;
  if (err) uring_close(u);
  return err;
}

int uring_enable(struct uring *u) {
  if (!u->disabled) return 0;
  u->disabled = false;
  return syscall(SYS_io_uring_register, u->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) ? -errno : 0;
}

void uring_add(struct uring *u, struct request *r) {
  const struct io *io = &r->io;
  struct io_uring_sqe *sqe = &u->sqes[u->tail++ & u->sq_mask];
  memset(sqe, 0, sizeof *sqe);
  sqe->flags = IOSQE_FIXED_FILE; /* file 0 of the registered ones */
  sqe->user_data = (uintptr_t)r;
  sqe->off = io->offset;
  switch (io->kind) {
    case IO_READ:
    case IO_WRITE:
      sqe->rw_flags = io->flags;
      if (io->n == 1) { /* spares the kernel to fetch the pieces */
        sqe->opcode = io->kind == IO_READ ? IORING_OP_READ : IORING_OP_WRITE;
        sqe->addr = (uintptr_t)io->iov->iov_base;
        sqe->len = io->iov->iov_len < 1u << 30 ? (uint32_t)io->iov->iov_len : 1u << 30;
      } else {
        sqe->opcode = io->kind == IO_READ ? IORING_OP_READV : IORING_OP_WRITEV;
        sqe->addr = (uintptr_t)io->iov;
        sqe->len = io->n;
      }
      break;
    case IO_SYNC:
      sqe->opcode = IORING_OP_FSYNC;
      sqe->fsync_flags = IORING_FSYNC_DATASYNC;
      break;
    case IO_ALLOCATE:
      sqe->opcode = IORING_OP_FALLOCATE;
      sqe->addr = io->len;
      sqe->len = (uint32_t)io->flags;
      break;
  }
}

uint32_t uring_waiting(const struct uring *u) {
  return u->tail - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
}

static bool has_work(const struct uring *u) {
  return __atomic_load_n(u->sq_flags, __ATOMIC_RELAXED) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

bool uring_ready(const struct uring *u) {
  return *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE) || has_work(u);
}

void uring_quiet(struct uring *u, bool quiet) {
  if (!CAN_BE_QUIET) return;
  if (quiet) __atomic_store_n(u->cq_flags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
  else (void)__atomic_exchange_n(u->cq_flags, 0, __ATOMIC_SEQ_CST); /* seen before we look at the ring again */
}

int uring_submit(struct uring *u) {
  __atomic_store_n(u->sq_tail, u->tail, __ATOMIC_RELEASE);
  for (;;) {
    uint32_t n = uring_waiting(u);
    /* Deferred: what has finished meanwhile comes with it, without a call of its own. */
    bool work = has_work(u);
    if (!n && !work) return 0;
    uint32_t flags = work || u->deferred ? IORING_ENTER_GETEVENTS : 0;
    long done = syscall(SYS_io_uring_enter, u->fd, n, 0, flags, NULL, 0);
    if (done < 0 && errno != EINTR) return -errno;
    if (!uring_waiting(u)) return 0;
    if (done == 0) return -EAGAIN;
  }
}

struct request *uring_next(struct uring *u, int64_t *res) {
  uint32_t head = *u->cq_head;
  if (head == __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE)) return NULL;
  const struct io_uring_cqe *cqe = &u->cqes[head & u->cq_mask];
  struct request *r = (struct request *)(uintptr_t)cqe->user_data;
  *res = cqe->res;
  __atomic_store_n(u->cq_head, head + 1, __ATOMIC_RELEASE);
  return r;
}

struct request *uring_take_back(struct uring *u) {
  if (!uring_waiting(u)) return NULL;
  struct request *r = (struct request *)(uintptr_t)u->sqes[--u->tail & u->sq_mask].user_data;
  __atomic_store_n(u->sq_tail, u->tail, __ATOMIC_RELEASE);
  return r;
}

void uring_release(struct uring *u) {
  syscall(SYS_io_uring_register, u->fd, IORING_UNREGISTER_FILES, NULL, 0);
}

void uring_close(struct uring *u) {
  if (u->sqes) munmap(u->sqes, u->sqes_len);
  if (u->ring) munmap(u->ring, u->ring_len);
  if (u->event_fd >= 0) close(u->event_fd);
  close(u->fd);
  memset(u, 0, sizeof *u);
  u->fd = u->event_fd = -1;
}
