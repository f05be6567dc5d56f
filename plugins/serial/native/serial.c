/* SPDX-License-Identifier: Apache-2.0 */
#include "serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmmcore.h"

struct serial {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_chardev *host; /* NULL: nobody listens, output is dropped */
  uint64_t port;
  uint32_t gsi;
  int irq_fd;
  bool mapped;

  pthread_mutex_t lock; /* guards all below */
  struct uart16550 uart;
  uint64_t interrupts;
  bool paused;
  bool starved; /* the host holds input back until chardev_kick() */
};

/* --- callbacks of the state machine, lock held ------------------------------ */

static size_t transmit(void *opaque, const uint8_t *data, size_t len) {
  struct serial *s = opaque;
  return s->host ? s->api->chardev_write(s->host, data, len) : len;
}

static void interrupt(void *opaque) {
  struct serial *s = opaque;
  uint64_t one = 1;
  s->interrupts++;
  /* Cannot fail in a way that matters: a full eventfd is an edge that is still on its way. */
  ssize_t ignored = write(s->irq_fd, &one, sizeof one);
  (void)ignored;
}

static const struct uart16550_ops ops = {transmit, interrupt};

/* --- flow ------------------------------------------------------------------ */

/* Called with the lock held after anything that may have changed the flow.
 * True: call chardev_kick() once the lock is free. */
static bool follow_up(struct serial *s) {
  if (!s->starved || s->paused || !uart16550_wants_input(&s->uart)) return false;
  s->starved = false;
  return true;
}

static void unlock(struct serial *s) {
  bool kick = follow_up(s);
  pthread_mutex_unlock(&s->lock);
  if (kick) s->api->chardev_kick(s->host);
}

/* vCPU threads. A wide access is its bytes at successive ports, as on ISA. */
static void on_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct serial *s = opaque;
  uint8_t *bytes = data;
  pthread_mutex_lock(&s->lock);
  for (uint32_t i = 0; i < size; i++) {
    if (is_write) uart16550_write(&s->uart, (unsigned)offset + i, bytes[i]);
    else bytes[i] = uart16550_read(&s->uart, (unsigned)offset + i);
  }
  unlock(s);
}

/* Loop thread: input from the host, or (no data) room again for what waits in the transmit FIFO. */
static size_t on_host(void *opaque, const uint8_t *data, size_t len) {
  struct serial *s = opaque;
  pthread_mutex_lock(&s->lock);
  if (!data && !s->paused) uart16550_drain(&s->uart);
  size_t taken = s->paused || !data ? 0 : uart16550_receive(&s->uart, data, len);
  if (taken < len) s->starved = true;
  pthread_mutex_unlock(&s->lock);
  return taken;
}

/* --- life cycle -------------------------------------------------------------- */

static int wire_up(struct serial *s, int *in_fd, int *out_fd, uint32_t flags) {
  s->irq_fd = s->api->irqfd_open(s->vm, s->gsi);
  if (s->irq_fd < 0) return s->irq_fd;
  if (*in_fd >= 0 || *out_fd >= 0) {
    s->host = s->api->chardev_open(s->vm, *in_fd, *out_fd, flags, on_host, s);
    s->starved = *in_fd >= 0; /* input flows from the first kick on */
    *in_fd = *out_fd = -1;    /* taken over, even if it failed */
    if (!s->host) return -EIO;
  }
  int status = s->api->bus_add(s->vm, VMM_PIO, s->port, UART_REGISTERS, on_io, s);
  s->mapped = status >= 0;
  return status;
}

struct serial *serial_new(const void *api, void *vm, uint16_t port, uint32_t gsi, int in_fd, int out_fd,
                          uint32_t flags, int *error) {
  struct serial *s = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) s = calloc(1, sizeof *s);
  if (s) {
    s->api = api;
    s->vm = vm;
    s->port = port;
    s->gsi = gsi;
    s->irq_fd = -1;
    s->paused = true;
    pthread_mutex_init(&s->lock, NULL);
    uart16550_init(&s->uart, &ops, s);
    *error = wire_up(s, &in_fd, &out_fd, flags);
    if (*error >= 0) return s;
    serial_free(s);
  }
  if (in_fd >= 0) close(in_fd);
  if (out_fd >= 0 && out_fd != in_fd) close(out_fd);
  return NULL;
}

void serial_free(struct serial *s) {
  if (!s) return;
  if (s->mapped) s->api->bus_del(s->vm, VMM_PIO, s->port);
  if (s->host) {
    pthread_mutex_lock(&s->lock);
    if (!s->paused) uart16550_drain(&s->uart); /* the last words; a paused guest says them elsewhere */
    pthread_mutex_unlock(&s->lock);
    s->api->chardev_close(s->host);
  }
  if (s->irq_fd >= 0) s->api->irqfd_close(s->vm, s->gsi, s->irq_fd);
  pthread_mutex_destroy(&s->lock);
  free(s);
}

void serial_reset(struct serial *s) {
  pthread_mutex_lock(&s->lock);
  uart16550_drain(&s->uart);
  uart16550_reset(&s->uart);
  unlock(s);
}

void serial_pause(struct serial *s) {
  pthread_mutex_lock(&s->lock);
  s->paused = true;
  unlock(s);
}

void serial_resume(struct serial *s) {
  pthread_mutex_lock(&s->lock);
  s->paused = false;
  uart16550_drain(&s->uart);
  unlock(s);
}

void serial_save(struct serial *s, struct uart16550_state *state) {
  pthread_mutex_lock(&s->lock);
  *state = s->uart.s;
  pthread_mutex_unlock(&s->lock);
}

int serial_restore(struct serial *s, const struct uart16550_state *state) {
  pthread_mutex_lock(&s->lock);
  int status = uart16550_restore(&s->uart, state);
  unlock(s);
  return status;
}

void serial_read_counters(struct serial *s, struct serial_counters *counters) {
  pthread_mutex_lock(&s->lock);
  *counters = (struct serial_counters){.rx_bytes = s->uart.rx_bytes,
                                       .tx_bytes = s->uart.tx_bytes,
                                       .rx_overruns = s->uart.rx_overruns,
                                       .tx_overruns = s->uart.tx_overruns,
                                       .interrupts = s->interrupts};
  pthread_mutex_unlock(&s->lock);
}
