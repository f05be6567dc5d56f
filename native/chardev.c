/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte stream of the host for serial ports and consoles: terminal, pty, pipe,
 * file or socket. Output goes to a 64 KiB ring. It is written out at a line's end
 * or a millisecond later, so that a console that prints byte by byte costs a few
 * system calls a line; what the host does not take waits for EPOLLOUT. Nothing
 * here blocks: not the vCPU that prints, nor the loop.
 *
 * A listening socket is a stream with one client at a time; output without a client is dropped.
 */
#include "native.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

enum { CTRL_A = 1, RING = 65536, FLUSH_AT = 4096, DELAY_NS = 1000000 };
enum out_kind { OUT_NONE, OUT_FILE, OUT_NONBLOCK, OUT_SOCKET, OUT_POLL };

struct vmm_chardev {
  vmm_vm *vm;
  vmm_loop *loop;
  uint32_t flags;
  vmm_rx_fn rx;
  void *opaque;

  pthread_mutex_t lock; /* all of the output half */
  int out_fd;
  enum out_kind kind;
  uint8_t ring[RING];
  size_t head, n;
  int timer_fd;
  bool timer_armed, waiting_out, was_full;
  _Atomic bool out_registered; /* changed with the lock; vmm_chardev_close() reads it without */
  _Atomic bool in_started;
  _Atomic bool room_note; /* tell rx() that there is room again */

  bool has_input;              /* there is an input half, maybe without a client */
  int listen_fd;               /* -1: none */
  _Atomic bool closing;
  int in_fd, kick_fd;          /* input half: the loop's thread only, but for kick_fd */
  uint8_t in[1024];
  size_t in_n;
  _Atomic bool in_registered; /* vmm_chardev_close() reads it too */
  bool in_always, in_eof, ctrl_a;
  bool raw;
  struct termios saved;
};

/* --- output --- */

static ssize_t put_out(vmm_chardev *d, const uint8_t *p, size_t n) {
  if (d->kind == OUT_SOCKET) return send(d->out_fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (d->kind == OUT_POLL) {
    struct pollfd f = {.fd = d->out_fd, .events = POLLOUT};
    if (poll(&f, 1, 0) != 1) return errno = EAGAIN, -1;
    if (n > 256) n = 256;
  }
  return write(d->out_fd, p, n);
}

/* With d->lock held. Write what the host takes. */
static void flush(vmm_chardev *d) {
  while (d->n) {
    size_t run = RING - d->head < d->n ? RING - d->head : d->n;
    ssize_t w = put_out(d, d->ring + d->head, run);
    if (w < 0 && errno == EINTR) continue;
    if (w < 0 && errno == EAGAIN && !(d->flags & VMM_CHARDEV_DROP && d->n == RING)) break;
    /* A peer that is gone, a full disk: the guest goes on, its output is dropped. */
    if (w <= 0) w = (ssize_t)run;
    d->head = (d->head + (size_t)w) % RING;
    d->n -= (size_t)w;
  }
  bool wait = d->n > 0;
  if (wait != d->waiting_out && d->out_registered) {
    d->waiting_out = wait;
    vmm_loop_mod(d->loop, d->out_fd, wait ? EPOLLOUT : 0);
  }
  if (!wait && d->was_full) {
    d->was_full = false;
    atomic_store(&d->room_note, true);
    (void)!eventfd_write(d->kick_fd, 1);
  }
}

static void arm_timer(vmm_chardev *d) {
  if (d->timer_armed) return;
  struct itimerspec t = {.it_value = {0, DELAY_NS}};
  d->timer_armed = !timerfd_settime(d->timer_fd, 0, &t, NULL);
}

size_t vmm_chardev_write(vmm_chardev *d, const uint8_t *data, size_t len) {
  bool line = false;
  pthread_mutex_lock(&d->lock);
  if (d->kind == OUT_NONE) {
    pthread_mutex_unlock(&d->lock);
    return len;
  }
  if (d->n + len > RING) flush(d);
  size_t n = len < RING - d->n ? len : RING - d->n;
  for (size_t i = 0; i < n; i++) {
    d->ring[(d->head + d->n + i) % RING] = data[i];
    line |= data[i] == '\n';
  }
  d->n += n;
  if (d->n == RING) d->was_full = true;
  if (!d->waiting_out) {
    if (line || d->n >= FLUSH_AT)
      flush(d);
    else if (d->n)
      arm_timer(d);
  }
  pthread_mutex_unlock(&d->lock);
  return n;
}

size_t vmm_chardev_room(vmm_chardev *d) {
  pthread_mutex_lock(&d->lock);
  if (d->n == RING) flush(d); /* with nobody to write to it is empty */
  size_t room = RING - d->n;
  if (!room) d->was_full = true;
  pthread_mutex_unlock(&d->lock);
  return room;
}

static void next_client(vmm_chardev *d);

static void on_out(void *opaque, int fd, uint32_t events) {
  vmm_chardev *d = opaque;
  bool gone = false;
  pthread_mutex_lock(&d->lock);
  uint64_t ticks;
  if (fd == d->timer_fd) {
    (void)!read(fd, &ticks, sizeof ticks);
    d->timer_armed = false;
  } else if (events & (EPOLLERR | EPOLLHUP) && !(events & EPOLLOUT)) {
    gone = d->listen_fd >= 0 && d->in_eof; /* else what it has sent is read first */
    d->out_registered = false; /* nobody there: it would be reported for ever */
    d->waiting_out = false;
    vmm_loop_del(d->loop, d->out_fd);
    d->n = 0;
  }
  flush(d);
  pthread_mutex_unlock(&d->lock);
  if (gone) next_client(d);
}

/* A description of our own, so that O_NONBLOCK does not reach the shell that shares the terminal or pipe. */
static void open_out(vmm_chardev *d) {
  struct stat st;
  if (d->out_fd < 0 || fstat(d->out_fd, &st)) return;
  d->kind = OUT_POLL;
  if (S_ISREG(st.st_mode)) {
    d->kind = OUT_FILE;
  } else if (S_ISSOCK(st.st_mode)) {
    d->kind = OUT_SOCKET;
  } else if (fcntl(d->out_fd, F_GETFL) & O_NONBLOCK) {
    d->kind = OUT_NONBLOCK;
  } else if (!(d->flags & VMM_CHARDEV_DROP)) { /* not a pty's master: opening that again makes another pty */
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", d->out_fd);
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) {
      if (d->out_fd != d->in_fd) close(d->out_fd);
      d->out_fd = fd;
      d->kind = OUT_NONBLOCK;
    }
  }
  if (d->kind == OUT_FILE) return;
  if (d->out_fd == d->in_fd) d->out_fd = fcntl(d->in_fd, F_DUPFD_CLOEXEC, 3); /* epoll knows an fd once */
  d->out_registered = d->out_fd >= 0 && !vmm_loop_add(d->loop, d->out_fd, 0, on_out, d);
}

/* --- input --- */

/* Copy n bytes to `out` (room for n + 1) without the escape sequences; *quit if the VM is to end. */
static size_t unescape(vmm_chardev *d, const uint8_t *p, size_t n, uint8_t *out, bool *quit) {
  size_t k = 0;
  for (size_t i = 0; i < n; i++) {
    if (!d->ctrl_a && p[i] == CTRL_A) {
      d->ctrl_a = true;
    } else if (!d->ctrl_a) {
      out[k++] = p[i];
    } else if (d->ctrl_a = false, p[i] == 'x') {
      *quit = true;
    } else { /* Ctrl-A twice sends one; before another key it is just that */
      out[k++] = CTRL_A;
      if (p[i] != CTRL_A) out[k++] = p[i];
    }
  }
  return k;
}

static void unwatch(vmm_chardev *d) {
  if (d->in_registered) vmm_loop_del(d->loop, d->in_fd);
  d->in_registered = false;
}

/* Give the device what it takes of the buffered input; true if it took all. */
static bool deliver(vmm_chardev *d) {
  size_t took = d->in_n ? d->rx(d->opaque, d->in, d->in_n) : 0;
  d->in_n -= took;
  memmove(d->in, d->in + took, d->in_n);
  return !d->in_n;
}

static void pump(vmm_chardev *d) {
  for (int rounds = 0; rounds < 64; rounds++) {
    /* While the device is full its input waits, unwatched (a hang-up would be reported for ever). A terminal
     * is read on all the same: the escape key must work when the guest no longer listens. */
    if (!deliver(d) && !(d->flags & VMM_CHARDEV_ESCAPE)) {
      unwatch(d);
      return;
    }
    if (d->in_eof) return;
    struct pollfd f = {.fd = d->in_fd, .events = POLLIN};
    if (!d->in_always && (poll(&f, 1, 0) != 1 || !(f.revents & (POLLIN | POLLHUP | POLLERR)))) return;
    uint8_t raw[256], clean[sizeof raw + 1];
    ssize_t n = read(d->in_fd, raw, sizeof raw);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0 && d->listen_fd >= 0 && (n < 0 || f.revents & POLLHUP)) {
      next_client(d);
      return;
    }
    if (n <= 0) { /* end of input (or a pty that nobody has open): the VM goes on without */
      d->in_eof = true;
      unwatch(d);
      return;
    }
    const uint8_t *p = raw;
    size_t len = (size_t)n;
    if (d->flags & VMM_CHARDEV_ESCAPE) {
      bool quit = false;
      p = clean;
      len = unescape(d, raw, len, clean, &quit);
      if (quit) vmm_post_event(d->vm, VMM_EVENT_QUIT, 0);
    }
    if (len > sizeof d->in - d->in_n) len = sizeof d->in - d->in_n; /* only where a terminal is read on */
    memcpy(d->in + d->in_n, p, len);
    d->in_n += len;
  }
  (void)!eventfd_write(d->kick_fd, 1); /* let others have the loop, then go on */
}

static void on_in(void *opaque, int fd, uint32_t events) {
  (void)fd;
  (void)events;
  pump(opaque);
}

/* Everything about input happens here, on the loop's thread, from the device's first kick on. */
static void on_kick(void *opaque, int fd, uint32_t events) {
  vmm_chardev *d = opaque;
  (void)events;
  eventfd_t v;
  (void)!eventfd_read(fd, &v);
  if (atomic_exchange(&d->room_note, false) && d->rx) d->rx(d->opaque, NULL, 0);
  if (d->in_fd < 0 || !d->rx || !atomic_load(&d->in_started)) return;
  if (!d->in_registered && !d->in_always && !d->in_eof) {
    int err = vmm_loop_add(d->loop, d->in_fd, EPOLLIN, on_in, d);
    d->in_registered = !err;
    d->in_always = err != 0; /* EPERM: a regular file, which is always readable */
  }
  pump(d);
}

void vmm_chardev_kick(vmm_chardev *d) {
  if (!d->has_input || !d->rx) return;
  atomic_store(&d->in_started, true);
  (void)!eventfd_write(d->kick_fd, 1);
}

/* --- clients of a listening socket --- */

/* Loop thread. Let go of the client whose input has come to its end, and take one that waits. */
static void next_client(vmm_chardev *d) {
  if (atomic_load(&d->closing)) return;
  unwatch(d);
  d->in_eof = false;
  pthread_mutex_lock(&d->lock);
  if (d->out_registered) vmm_loop_del(d->loop, d->out_fd);
  if (d->out_fd >= 0) close(d->out_fd);
  if (d->in_fd >= 0) close(d->in_fd);
  d->out_registered = false;
  d->waiting_out = false;
  d->kind = OUT_NONE;
  d->n = 0;
  flush(d); /* says that there is room */
  d->out_fd = -1;
  d->in_fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC);
  if (d->in_fd >= 0) {
    d->out_fd = d->in_fd;
    open_out(d);
  }
  pthread_mutex_unlock(&d->lock);
  if (d->in_fd >= 0) (void)!eventfd_write(d->kick_fd, 1); /* on_kick() reads it, once the device is ready */
}

static void on_listen(void *opaque, int fd, uint32_t events) {
  vmm_chardev *d = opaque;
  (void)fd, (void)events;
  if (d->in_fd < 0) next_client(d);
}

static bool is_listening(int fd) {
  int yes = 0;
  socklen_t len = sizeof yes;
  return fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) && yes;
}

static int open_listen(vmm_chardev *d) {
  d->listen_fd = d->in_fd;
  if (d->out_fd >= 0 && d->out_fd != d->in_fd) close(d->out_fd);
  d->in_fd = d->out_fd = -1;
  int flags = fcntl(d->listen_fd, F_GETFL);
  if (flags < 0 || fcntl(d->listen_fd, F_SETFL, flags | O_NONBLOCK)) return -errno;
  /* Edges: while one is served the others wait, and would be reported for ever. */
  return vmm_loop_add(d->loop, d->listen_fd, EPOLLIN | EPOLLET, on_listen, d);
}

static void open_in(vmm_chardev *d) {
  if (d->in_fd < 0) return;
  if ((d->flags & VMM_CHARDEV_RAW) && isatty(d->in_fd) && !tcgetattr(d->in_fd, &d->saved)) {
    struct termios t = d->saved;
    cfmakeraw(&t);
    t.c_oflag |= OPOST; /* our own messages still end their lines */
    d->raw = !tcsetattr(d->in_fd, TCSANOW, &t);
  }
  if (!isatty(d->in_fd)) d->flags &= ~(uint32_t)VMM_CHARDEV_ESCAPE; /* piped input is data */
}

vmm_chardev *vmm_chardev_open(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx, void *opaque) {
  vmm_chardev *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->vm = vm;
  d->flags = flags;
  d->rx = rx;
  d->opaque = opaque;
  d->in_fd = in_fd;
  d->out_fd = out_fd;
  d->listen_fd = -1;
  d->has_input = in_fd >= 0;
  pthread_mutex_init(&d->lock, NULL);
  d->loop = vmm_loop_get(vm, 0);
  d->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  d->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (!d->loop || d->timer_fd < 0 || d->kick_fd < 0 || vmm_loop_add(d->loop, d->timer_fd, EPOLLIN, on_out, d) ||
      vmm_loop_add(d->loop, d->kick_fd, EPOLLIN, on_kick, d)) {
    vmm_chardev_close(d);
    return NULL;
  }
  if (is_listening(in_fd)) {
    if (open_listen(d)) {
      vmm_chardev_close(d);
      return NULL;
    }
    return d;
  }
  open_out(d);
  open_in(d);
  return d;
}

void vmm_chardev_close(vmm_chardev *d) {
  if (!d) return;
  atomic_store(&d->closing, true); /* clients neither come nor go once the first loop_del() is back */
  if (d->listen_fd >= 0) vmm_loop_del(d->loop, d->listen_fd);
  if (d->loop && d->kick_fd >= 0) vmm_loop_del(d->loop, d->kick_fd);
  if (d->in_registered) vmm_loop_del(d->loop, d->in_fd);
  if (d->out_registered) vmm_loop_del(d->loop, d->out_fd);
  /* Last: a handler that has just taken its own descriptor off the loop may still run until this is back. */
  if (d->loop && d->timer_fd >= 0) vmm_loop_del(d->loop, d->timer_fd);
  d->out_registered = false;
  /* The guest's last words: give a slow reader (a pipe, a terminal) a second, no more. */
  for (int rounds = 0; d->kind != OUT_NONE && d->n && rounds < 10; rounds++) {
    flush(d);
    struct pollfd f = {.fd = d->out_fd, .events = POLLOUT};
    if (d->n && !(d->flags & VMM_CHARDEV_DROP)) poll(&f, 1, 100);
  }
  if (d->raw) tcsetattr(d->in_fd, TCSADRAIN, &d->saved);
  if (d->timer_fd >= 0) close(d->timer_fd);
  if (d->kick_fd >= 0) close(d->kick_fd);
  if (d->out_fd >= 0 && d->out_fd != d->in_fd) close(d->out_fd);
  if (d->in_fd >= 0) close(d->in_fd);
  if (d->listen_fd >= 0) close(d->listen_fd);
  pthread_mutex_destroy(&d->lock);
  free(d);
}
