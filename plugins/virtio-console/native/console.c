/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum {
  BATCH = 64,           /* requests in a row: others use the loop too */
  TX_AT_ONCE = 1 << 18, /* bytes of one request, likewise: it may have 4 GiB */
};

void console_count(uint64_t *counter, uint64_t n) {
  if (counter) __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

/* --- queues --- */

void lane_wake(struct lane *lane) {
  eventfd_write(lane->wake_fd, 1);
}

/* What waits is put back into the queue, so that between two calls a lane holds nothing of it. */
static void run(struct lane *lane) {
  const struct vmm_api *api = lane->c->api;
  unsigned left = BATCH;
  do {
    struct vmm_chain chain;
    enum verdict verdict = DONE;
    int popped = 1;
    while (left && verdict == DONE && (popped = api->queue_pop(lane->queue, &chain, lane->iov, lane->cap)) > 0) {
      uint32_t written = 0;
      verdict = lane->serve(lane, &chain, lane->iov, &written);
      if (verdict == DONE) api->queue_push(lane->queue, &chain, lane->iov, written);
      else api->queue_unpop(lane->queue, &chain);
      left--;
    }
    api->queue_flush(lane->queue);
    if (popped < 0) return;
    if (verdict == WAIT) { /* kicks would not help */
      api->queue_quiet(lane->queue);
      return;
    }
    if (verdict == AGAIN || !left) {
      lane_wake(lane);
      return;
    }
  } while (api->queue_wait(lane->queue));
}

static void on_kick(void *opaque, vmm_queue *queue) {
  (void)queue;
  run(opaque);
}

static void on_wake(void *opaque, int fd, uint32_t events) {
  eventfd_t value;
  (void)events;
  if (!eventfd_read(fd, &value)) run(opaque);
}

static enum verdict serve_rx(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov,
                             uint32_t *written) {
  struct port *port = lane->port;
  struct console *c = lane->c;
  if (!chain->in_len) return DONE;
  pthread_mutex_lock(&c->lock);
  /* Linux throws away what comes for a port that no program has open. */
  bool open = port->guest_open || !c->multiport;
  *written = open ? (uint32_t)stream_read(port, iov + chain->n_out, chain->n_in) : 0;
  pthread_mutex_unlock(&c->lock);
  console_count(c->rx_bytes, *written);
  return *written ? DONE : WAIT;
}

static enum verdict serve_tx(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov,
                             uint32_t *written) {
  struct port *port = lane->port;
  uint64_t skip = port->tx_done, sent = 0;
  (void)written;
  pthread_mutex_lock(&lane->c->lock);
  port->tx_stuck = false;
  pthread_mutex_unlock(&lane->c->lock);
  enum verdict verdict = DONE;
  for (uint32_t i = 0; i < chain->n_out && verdict == DONE; i++) {
    if (skip >= iov[i].iov_len) {
      skip -= iov[i].iov_len;
      continue;
    }
    size_t len = iov[i].iov_len - skip;
    if (len > TX_AT_ONCE - sent) len = TX_AT_ONCE - sent, verdict = AGAIN;
    size_t n = stream_write(port, (const uint8_t *)iov[i].iov_base + skip, len);
    if (n < len) verdict = WAIT;
    sent += n;
    skip = 0;
  }
  console_count(lane->c->tx_bytes, sent);
  port->tx_done = verdict == DONE ? 0 : port->tx_done + sent;
  return verdict;
}

static int start_lane(struct lane *lane, vmm_queue *queue) {
  const struct vmm_api *api = lane->c->api;
  if (!queue) return 0;
  lane->cap = api->queue_size(queue) + 8;
  lane->iov = calloc(lane->cap, sizeof *lane->iov);
  if (!lane->iov) return -ENOMEM;
  lane->loop = api->queue_loop(queue);
  lane->queue = queue;
  return api->loop_add(lane->loop, lane->wake_fd, EPOLLIN, on_wake, lane);
}

static void stop_lane(struct lane *lane) {
  if (lane->queue) lane->c->api->loop_del(lane->loop, lane->wake_fd);
  lane->queue = NULL;
  free(lane->iov);
  lane->iov = NULL;
}

/* --- life cycle --- */

/* The lane of queue `i` (§5.3.2: the control queues are 2 and 3), NULL: there is none. */
static struct lane *lane_of(struct console *c, uint32_t i) {
  if (i == 2 || i == 3) return !c->multiport ? NULL : i & 1 ? &c->control_tx : &c->control_rx;
  uint32_t id = i < 2 ? 0 : i / 2 - 1;
  if (id >= c->n_ports || (id && !c->multiport)) return NULL;
  return i & 1 ? &c->ports[id].tx : &c->ports[id].rx;
}

/* With c->lock held: what the driver has said of the ports is as good as its control queue. */
static void forget(struct console *c, uint32_t i) {
  struct lane *lane = lane_of(c, i);
  if (lane && lane->port && lane == &lane->port->tx) lane->port->tx_done = 0;
  if (i != (c->multiport ? 3 : 0)) return;
  for (struct port *port = c->ports; port < c->ports + c->n_ports; port++) {
    port->ready = port->guest_open = false;
    port->todo = 0;
  }
}

int console_start(struct console *c, void *const *queues, const uint8_t *fresh, uint32_t n, uint64_t features) {
  if (c->running) console_stop(c); /* a start that failed half-way */
  pthread_mutex_lock(&c->lock);
  c->running = true;
  c->multiport = features & CONSOLE_F_MULTIPORT;
  for (uint32_t i = 0; i < n; i++)
    if (fresh[i]) forget(c, i);
  pthread_mutex_unlock(&c->lock);
  int error = 0;
  struct lane *lane;
  for (uint32_t i = 0; i < n && !error; i++)
    if ((lane = lane_of(c, i))) error = start_lane(lane, queues[i]);
  if (error) {
    console_stop(c); /* no handler has been given to the core */
    return error;
  }
  for (uint32_t i = 0; i < n && !error; i++)
    if ((lane = lane_of(c, i)) && lane->queue) error = c->api->queue_handle(lane->queue, on_kick, lane);
  return error;
}

void console_stop(struct console *c) {
  if (!c->running) return;
  for (struct port *port = c->ports; port < c->ports + c->n_ports; port++) {
    stop_lane(&port->rx);
    stop_lane(&port->tx);
  }
  stop_lane(&c->control_rx);
  stop_lane(&c->control_tx);
  pthread_mutex_lock(&c->lock);
  for (struct port *port = c->ports; port < c->ports + c->n_ports; port++)
    port->hungry = port->tx_stuck = false; /* input stays where it is */
  c->running = false;
  stream_call(c);
  pthread_mutex_unlock(&c->lock);
}

/* The host's fds, on one loop of their own choice. */
static void on_host(void *opaque, int fd, uint32_t events) {
  struct console *c = opaque;
  struct signalfd_siginfo signals[4];
  (void)events;
  if (read(fd, signals, sizeof signals) < 0) return;
  if (fd == c->winch_fd) console_check_size(c);
  else stream_chores(c);
}

/* The kernel tells of a terminal's new size with a signal and nothing else. It stays blocked in this thread; the
 * core blocks it in all others. */
static int watch_terminal(struct console *c, const struct console_port *config) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGWINCH);
  c->size_fd = fcntl(config->out_fd >= 0 ? config->out_fd : config->in_fd, F_DUPFD_CLOEXEC, 3);
  if (c->size_fd < 0) return -errno;
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  c->winch_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (c->winch_fd < 0) return -errno;
  console_check_size(c);
  eventfd_t value;
  (void)!eventfd_read(c->notice_fd, &value); /* the first size is no change */
  return c->api->loop_add(c->loop, c->winch_fd, EPOLLIN, on_host, c);
}

static int make_lane(struct console *c, struct lane *lane, struct port *port,
                     enum verdict (*serve)(struct lane *, const struct vmm_chain *, const struct iovec *, uint32_t *)) {
  lane->c = c;
  lane->port = port;
  lane->serve = serve;
  lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return lane->wake_fd < 0 ? -errno : 0;
}

static int make_port(struct console *c, struct port *port, const struct console_port *config) {
  int error = make_lane(c, &port->rx, port, serve_rx);
  if (!error) error = make_lane(c, &port->tx, port, serve_tx);
  if (!error && config->name && !(port->name = strdup(config->name))) error = -ENOMEM;
  if (!error && !port->id && config->flags & CONSOLE_TERMINAL) error = watch_terminal(c, config);
  return error;
}

static void close_config(const struct console_port *config) {
  if (config->listen_fd >= 0) close(config->listen_fd);
  if (config->in_fd >= 0) close(config->in_fd);
  if (config->out_fd >= 0 && config->out_fd != config->in_fd) close(config->out_fd);
}

struct console *console_new(const void *api, void *vm, const char *id, const struct console_port *ports, uint32_t n,
                            int legacy_size, int *error) {
  struct console *c = NULL;
  *error = vmm_api_check(api, 1) ? -ENOTSUP : !n || n > CONSOLE_MAX_PORTS ? -EINVAL : 0;
  if (!*error) {
    c = calloc(1, sizeof *c);
    if (c) c->ports = calloc(n, sizeof *c->ports);
    if (!c || !c->ports) *error = -ENOMEM;
  }
  uint32_t taken = 0;
  if (!*error) {
    c->api = api;
    c->vm = vm;
    c->legacy_size = legacy_size;
    c->n_ports = n;
    c->size_fd = c->winch_fd = -1;
    c->control_rx.wake_fd = c->control_tx.wake_fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    for (uint32_t i = 0; i < n; i++) {
      struct port *port = &c->ports[i];
      port->c = c;
      port->id = i;
      port->listen_fd = port->client_fd = port->rx.wake_fd = port->tx.wake_fd = -1;
    }
    c->notice_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->chore_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->notice_fd < 0 || c->chore_fd < 0) *error = -errno;
    c->loop = c->api->loop(vm, 0);
    c->rx_bytes = c->api->counter(vm, id, "rx_bytes");
    c->tx_bytes = c->api->counter(vm, id, "tx_bytes");
    c->tx_dropped = c->api->counter(vm, id, "tx_dropped");
    if (!*error && !c->loop) *error = -EIO;
    if (!*error) *error = make_lane(c, &c->control_rx, NULL, control_receive);
    if (!*error) *error = make_lane(c, &c->control_tx, NULL, control_transmit);
    if (!*error) *error = c->api->loop_add(c->loop, c->chore_fd, EPOLLIN, on_host, c);
    for (uint32_t i = 0; i < n && !*error; i++) *error = make_port(c, &c->ports[i], &ports[i]);
    for (; taken < n && !*error; taken++) *error = stream_open(&c->ports[taken], &ports[taken]);
    if (!*error) return c;
    console_free(c);
  } else if (c) {
    free(c->ports);
    free(c);
  }
  for (; taken < n; taken++) close_config(&ports[taken]);
  return NULL;
}

static void close_fd(int fd) {
  if (fd >= 0) close(fd);
}

void console_free(struct console *c) {
  if (!c) return;
  console_stop(c);
  if (c->winch_fd >= 0) c->api->loop_del(c->loop, c->winch_fd);
  if (c->chore_fd >= 0 && c->loop) c->api->loop_del(c->loop, c->chore_fd);
  for (struct port *port = c->ports; port < c->ports + c->n_ports; port++) {
    stream_close(port);
    close_fd(port->rx.wake_fd);
    close_fd(port->tx.wake_fd);
    free(port->name);
  }
  int fds[] = {c->control_rx.wake_fd, c->control_tx.wake_fd, c->winch_fd, c->size_fd, c->chore_fd, c->notice_fd};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) close_fd(fds[i]);
  pthread_mutex_destroy(&c->lock);
  free(c->ports);
  free(c);
}

int console_notice_fd(struct console *c) {
  return c->notice_fd;
}

int console_size(struct console *c, uint16_t *cols, uint16_t *rows) {
  pthread_mutex_lock(&c->lock);
  *cols = c->cols;
  *rows = c->rows;
  pthread_mutex_unlock(&c->lock);
  return c->size_fd >= 0;
}

/* --- saved state --- */

void console_save(struct console *c, uint32_t index, struct console_port_state *state) {
  memset(state, 0, sizeof *state);
  if (index >= c->n_ports) return;
  const struct port *port = &c->ports[index];
  pthread_mutex_lock(&c->lock);
  state->ready = port->ready;
  state->guest_open = port->guest_open;
  state->todo = port->todo;
  state->tx_done = port->tx_done;
  state->in_len = port->in_len;
  memcpy(state->in, port->in, port->in_len);
  pthread_mutex_unlock(&c->lock);
}

int console_restore(struct console *c, uint32_t index, const struct console_port_state *state) {
  if (index >= c->n_ports || c->running || state->in_len > sizeof state->in || state->todo & ~TODO_ALL ||
      state->ready > 1 || state->guest_open > 1 || state->tx_done > UINT32_MAX)
    return -EINVAL;
  struct port *port = &c->ports[index];
  if ((state->todo & TODO_NAME && !port->name) || (index && state->todo & (TODO_CONSOLE | TODO_RESIZE))) return -EINVAL;
  pthread_mutex_lock(&c->lock);
  port->ready = state->ready;
  port->guest_open = state->guest_open;
  /* Who is at the other end now may not be who was: the guest is told again. */
  port->todo = state->todo | (state->ready ? TODO_OPEN : 0);
  port->tx_done = state->tx_done;
  port->in_len = state->in_len;
  memcpy(port->in, state->in, state->in_len);
  pthread_mutex_unlock(&c->lock);
  return 0;
}
