/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host side of a port. Terminals, ptys and files are the core's chardevs. A socket is served here, for its
 * clients come and go and the guest hears of it: its bytes go straight between the socket and guest memory.
 *
 * A client's fd is closed by the loop that watches it and by nobody else; others mark it dead.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- terminal size --- */

void console_check_size(struct console *c) {
  struct winsize size;
  if (c->size_fd < 0 || ioctl(c->size_fd, TIOCGWINSZ, &size)) return;
  pthread_mutex_lock(&c->lock);
  bool changed = c->cols != size.ws_col || c->rows != size.ws_row;
  c->cols = size.ws_col;
  c->rows = size.ws_row;
  if (changed && c->ports[0].ready) console_todo(&c->ports[0], TODO_RESIZE);
  pthread_mutex_unlock(&c->lock);
  if (changed) eventfd_write(c->notice_fd, 1);
}

/* --- chardev --- */

/* Input of a chardev, or (no data) room again for output. Its loop. */
static size_t on_chardev(void *opaque, const uint8_t *data, size_t len) {
  struct port *port = opaque;
  struct console *c = port->c;
  if (data && !port->id) console_check_size(c); /* nothing tells when the size of a pty changes */
  pthread_mutex_lock(&c->lock);
  if (!data) lane_wake(&port->tx);
  size_t room = port->hungry ? sizeof port->in - port->in_len : 0, n = !data ? 0 : len < room ? len : room;
  if (n) {
    memcpy(port->in + port->in_len, data, n);
    port->in_len += (uint32_t)n;
    lane_wake(&port->rx);
  }
  if (n < len) port->starved = true;
  pthread_mutex_unlock(&c->lock);
  return n;
}

static size_t copy_in(struct port *port, const struct iovec *iov, uint32_t n) {
  size_t done = 0;
  for (uint32_t i = 0; i < n && done < port->in_len; i++) {
    size_t part = iov[i].iov_len < port->in_len - done ? iov[i].iov_len : port->in_len - done;
    memcpy(iov[i].iov_base, port->in + done, part);
    done += part;
  }
  port->in_len -= (uint32_t)done;
  memmove(port->in, port->in + done, port->in_len);
  return done;
}

static size_t write_chardev(struct port *port, const uint8_t *data, size_t len) {
  const struct vmm_api *api = port->c->api;
  size_t done = 0;
  while ((done += api->chardev_write(port->chardev, data + done, len - done)) < len)
    if (!api->chardev_room(port->chardev)) return done; /* on_chardev() is called once there is */
  return done;
}

/* --- socket --- */

static void on_client(void *opaque, int fd, uint32_t events);

/* Loop thread, c->lock held. Take the next client, if one is waiting. */
static void next_client(struct port *port) {
  struct console *c = port->c;
  while (port->client_fd < 0 && port->listen_fd >= 0) {
    int fd = accept4(port->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0) return;
    if (c->api->loop_add(c->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | (uint32_t)EPOLLET, on_client, port)) {
      close(fd);
      continue;
    }
    port->client_fd = fd;
    port->client_dead = port->client_silent = false;
    if (port->ready) console_todo(port, TODO_OPEN);
    lane_wake(&port->rx);
  }
}

/* Loop thread, c->lock held. */
static void drop_client(struct port *port) {
  struct console *c = port->c;
  c->api->loop_del(c->loop, port->client_fd);
  close(port->client_fd);
  port->client_fd = -1;
  if (port->ready) console_todo(port, TODO_OPEN);
  if (port->tx_stuck) lane_wake(&port->tx); /* it is dropped now */
  next_client(port);
}

static bool hung_up(int fd) {
  struct pollfd f = {.fd = fd};
  return poll(&f, 1, 0) == 1 && f.revents & (POLLHUP | POLLERR);
}

static bool has_input(int fd) {
  uint8_t byte;
  return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* With c->lock held. The last words of a client that is gone are kept for a guest that has the port open; else
 * they make way for the next client. */
static bool is_over(const struct port *port) {
  int fd = port->client_fd;
  if (port->client_dead) return true;
  if (!hung_up(fd)) return false;
  if (!has_input(fd)) return true;
  bool heard = port->c->running && (port->guest_open || !port->c->multiport);
  struct pollfd waiting = {.fd = port->listen_fd, .events = POLLIN};
  return !heard && poll(&waiting, 1, 0) == 1;
}

static void on_client(void *opaque, int fd, uint32_t events) {
  struct port *port = opaque;
  pthread_mutex_lock(&port->c->lock);
  if (fd == port->client_fd) {
    if (is_over(port)) {
      drop_client(port);
    } else {
      if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP) && port->hungry) lane_wake(&port->rx);
      if (events & EPOLLOUT && port->tx_stuck) lane_wake(&port->tx);
    }
  }
  pthread_mutex_unlock(&port->c->lock);
}

static void on_listen(void *opaque, int fd, uint32_t events) {
  struct port *port = opaque;
  (void)fd, (void)events;
  pthread_mutex_lock(&port->c->lock);
  if (port->client_fd >= 0 && is_over(port)) drop_client(port);
  else next_client(port);
  pthread_mutex_unlock(&port->c->lock);
}

/* c->lock held, any thread: the loop is to close the client. */
static void give_up_client(struct port *port) {
  port->client_dead = true;
  stream_call(port->c);
}

void stream_call(struct console *c) {
  eventfd_write(c->chore_fd, 1);
}

void stream_chores(struct console *c) {
  pthread_mutex_lock(&c->lock);
  for (struct port *port = c->ports; port < c->ports + c->n_ports; port++)
    if (port->client_fd >= 0 && is_over(port)) drop_client(port);
  pthread_mutex_unlock(&c->lock);
}

static size_t write_client(struct port *port, const uint8_t *data, size_t len) {
  size_t done = 0;
  pthread_mutex_lock(&port->c->lock);
  while (done < len) {
    if (port->client_fd < 0 || port->client_dead) {
      console_count(port->c->tx_dropped, len - done);
      done = len;
      break;
    }
    ssize_t n = send(port->client_fd, data + done, len - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) {
      done += (size_t)n;
    } else if (errno == EAGAIN) {
      port->tx_stuck = true;
      break;
    } else if (errno != EINTR) {
      if (!has_input(port->client_fd)) give_up_client(port);
      console_count(port->c->tx_dropped, len - done);
      done = len;
    }
  }
  pthread_mutex_unlock(&port->c->lock);
  return done;
}

static size_t read_client(struct port *port, const struct iovec *iov, uint32_t n) {
  if (port->client_fd < 0 || port->client_dead || port->client_silent) return 0;
  ssize_t got;
  do got = readv(port->client_fd, iov, (int)(n < 64 ? n : 64));
  while (got < 0 && errno == EINTR);
  if (got > 0) return (size_t)got;
  if (got < 0 && errno == EAGAIN) return 0;
  port->client_silent = true; /* it may still listen, unless it hung up */
  if (got < 0 || hung_up(port->client_fd)) give_up_client(port);
  return 0;
}

/* --- either --- */

size_t stream_write(struct port *port, const uint8_t *data, size_t len) {
  if (port->listen_fd >= 0) return write_client(port, data, len);
  return port->chardev ? write_chardev(port, data, len) : len;
}

size_t stream_read(struct port *port, const struct iovec *iov, uint32_t n) {
  port->hungry = false;
  size_t got = port->in_len ? copy_in(port, iov, n) : port->listen_fd >= 0 ? read_client(port, iov, n) : 0;
  if (got) return got;
  port->hungry = true;
  if (port->starved) {
    port->starved = false;
    port->c->api->chardev_kick(port->chardev);
  }
  return 0;
}

bool stream_is_open(const struct port *port) {
  return port->listen_fd < 0 || port->client_fd >= 0;
}

int stream_open(struct port *port, const struct console_port *config) {
  const struct vmm_api *api = port->c->api;
  if (config->listen_fd >= 0) {
    port->listen_fd = config->listen_fd;
    return api->loop_add(port->c->loop, port->listen_fd, EPOLLIN | (uint32_t)EPOLLET, on_listen, port);
  }
  if (config->in_fd < 0 && config->out_fd < 0) return 0;
  port->starved = config->in_fd >= 0; /* input flows from the first kick on */
  port->chardev = api->chardev_open(port->c->vm, config->in_fd, config->out_fd,
                                    config->flags & ~(uint32_t)CONSOLE_TERMINAL, on_chardev, port);
  if (!port->chardev) return -EIO;
  /* The escape key of a terminal works from the start; what else is typed waits in the chardev. */
  if (config->flags & VMM_CHARDEV_ESCAPE) api->chardev_kick(port->chardev);
  return 0;
}

void stream_close(struct port *port) {
  struct console *c = port->c;
  if (port->chardev) c->api->chardev_close(port->chardev);
  pthread_mutex_lock(&c->lock); /* from here on nobody takes or drops clients */
  int fds[2] = {port->listen_fd, port->client_fd};
  port->listen_fd = port->client_fd = -1;
  pthread_mutex_unlock(&c->lock);
  for (int i = 0; i < 2; i++) {
    if (fds[i] < 0) continue;
    c->api->loop_del(c->loop, fds[i]);
    close(fds[i]);
  }
}
