/* SPDX-License-Identifier: Apache-2.0 */
#include "serial.h"

#include <errno.h>
#include <stdlib.h>

struct serial {
  struct vmm_uart port;
  uint32_t gsi;
  int irq_fd;
  /* guarded by the port's lock */
  struct uart16550 uart;
  uint64_t interrupts;
};

/* --- callbacks of the state machine, lock held ------------------------------ */

static size_t transmit(void *opaque, const uint8_t *data, size_t len) {
  struct serial *s = opaque;
  return vmm_uart_transmit(&s->port, data, len);
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

/* --- its place in the machine ------------------------------------------------- */

static size_t receive(void *chip, const uint8_t *data, size_t len) {
  return uart16550_receive(chip, data, len);
}

static bool wants_input(const void *chip) {
  return uart16550_wants_input(chip);
}

static void drain(void *chip) {
  uart16550_drain(chip);
}

static const struct vmm_uart_chip chip_ops = {receive, wants_input, drain};

/* vCPU threads. A wide access is its bytes at successive ports, as on ISA. */
static void on_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct serial *s = opaque;
  uint8_t *bytes = data;
  vmm_uart_lock(&s->port);
  for (uint32_t i = 0; i < size; i++) {
    if (is_write) uart16550_write(&s->uart, (unsigned)offset + i, bytes[i]);
    else bytes[i] = uart16550_read(&s->uart, (unsigned)offset + i);
  }
  vmm_uart_unlock(&s->port);
}

/* --- life cycle -------------------------------------------------------------- */

struct serial *serial_new(const void *api, void *vm, uint16_t port, uint32_t gsi, int in_fd, int out_fd,
                          uint32_t flags, int *error) {
  struct serial *s = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) s = calloc(1, sizeof *s);
  if (!s) {
    vmm_uart_close_fds(in_fd, out_fd);
    return NULL;
  }
  uart16550_init(&s->uart, &ops, s);
  s->gsi = gsi;
  s->irq_fd = -1;
  *error = vmm_uart_open(&s->port, api, vm, &chip_ops, &s->uart, in_fd, out_fd, flags);
  if (*error >= 0) *error = s->irq_fd = s->port.api->irqfd_open(vm, gsi);
  if (*error >= 0) *error = vmm_uart_map(&s->port, VMM_PIO, port, UART_REGISTERS, on_io, s);
  if (*error >= 0) return s;
  serial_free(s);
  return NULL;
}

void serial_free(struct serial *s) {
  if (!s) return;
  vmm_uart_close(&s->port);
  if (s->irq_fd >= 0) s->port.api->irqfd_close(s->port.vm, s->gsi, s->irq_fd);
  free(s);
}

void serial_reset(struct serial *s) {
  vmm_uart_lock(&s->port);
  uart16550_drain(&s->uart);
  uart16550_reset(&s->uart);
  vmm_uart_unlock(&s->port);
}

void serial_pause(struct serial *s, int paused) {
  vmm_uart_pause(&s->port, paused);
}

void serial_save(struct serial *s, struct uart16550_state *state) {
  vmm_uart_lock(&s->port);
  *state = s->uart.s;
  vmm_uart_unlock(&s->port);
}

int serial_restore(struct serial *s, const struct uart16550_state *state) {
  vmm_uart_lock(&s->port);
  int status = uart16550_restore(&s->uart, state);
  vmm_uart_unlock(&s->port);
  return status;
}

void serial_read_counters(struct serial *s, struct vmm_uart_counters *counters) {
  vmm_uart_lock(&s->port);
  *counters = (struct vmm_uart_counters){.rx_bytes = s->uart.rx_bytes,
                                         .tx_bytes = s->uart.tx_bytes,
                                         .rx_overruns = s->uart.rx_overruns,
                                         .tx_overruns = s->uart.tx_overruns,
                                         .interrupts = s->interrupts};
  vmm_uart_unlock(&s->port);
}
