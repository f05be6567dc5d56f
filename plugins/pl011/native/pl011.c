/* SPDX-License-Identifier: Apache-2.0 */
#include "pl011.h"

#include <errno.h>
#include <stdlib.h>

#include "vmmamba.h"

struct pl011 {
  struct vmm_uart port;
  uint32_t gsi;
  /* guarded by the port's lock */
  struct pl011_chip chip;
  uint64_t interrupts;
};

/* --- callbacks of the state machine, lock held ------------------------------ */

static size_t transmit(void *opaque, const uint8_t *data, size_t len) {
  struct pl011 *p = opaque;
  return vmm_uart_transmit(&p->port, data, len);
}

static void line(void *opaque, bool level) {
  struct pl011 *p = opaque;
  if (level) p->interrupts++;
  p->port.api->irq_level(p->port.vm, p->gsi, 0, level);
}

static const struct pl011_ops ops = {transmit, line};

/* --- its place in the machine ------------------------------------------------- */

static size_t receive(void *chip, const uint8_t *data, size_t len) {
  return pl011_chip_receive(chip, data, len);
}

static bool wants_input(const void *chip) {
  return pl011_chip_wants_input(chip);
}

static void drain(void *chip) {
  pl011_chip_drain(chip);
}

static const struct vmm_uart_chip chip_ops = {receive, wants_input, drain};

static uint32_t read_register(void *chip, uint32_t reg) {
  return pl011_chip_read(chip, reg);
}

static void write_register(void *chip, uint32_t reg, uint32_t value) {
  pl011_chip_write(chip, reg, value);
}

/* vCPU threads. */
static void on_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct pl011 *p = opaque;
  vmm_uart_lock(&p->port);
  vmm_amba_access(&p->chip, read_register, write_register, offset, data, size, is_write);
  vmm_uart_unlock(&p->port);
}

/* --- life cycle -------------------------------------------------------------- */

struct pl011 *pl011_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int in_fd, int out_fd,
                        uint32_t flags, int *error) {
  struct pl011 *p = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) p = calloc(1, sizeof *p);
  if (!p) {
    vmm_uart_close_fds(in_fd, out_fd);
    return NULL;
  }
  pl011_chip_init(&p->chip, &ops, p);
  p->gsi = gsi;
  *error = vmm_uart_open(&p->port, api, vm, &chip_ops, &p->chip, in_fd, out_fd, flags);
  if (*error >= 0) *error = vmm_uart_map(&p->port, VMM_MMIO, address, VMM_AMBA_SIZE, on_io, p);
  if (*error >= 0) return p;
  pl011_free(p);
  return NULL;
}

void pl011_free(struct pl011 *p) {
  if (!p) return;
  vmm_uart_close(&p->port);
  if (p->chip.level) p->port.api->irq_level(p->port.vm, p->gsi, 0, 0);
  free(p);
}

void pl011_reset(struct pl011 *p) {
  vmm_uart_lock(&p->port);
  pl011_chip_drain(&p->chip);
  pl011_chip_reset(&p->chip);
  vmm_uart_unlock(&p->port);
}

void pl011_pause(struct pl011 *p, int paused) {
  vmm_uart_pause(&p->port, paused);
}

void pl011_save(struct pl011 *p, struct pl011_state *state) {
  vmm_uart_lock(&p->port);
  *state = p->chip.s;
  vmm_uart_unlock(&p->port);
}

int pl011_restore(struct pl011 *p, const struct pl011_state *state) {
  vmm_uart_lock(&p->port);
  int status = pl011_chip_restore(&p->chip, state);
  vmm_uart_unlock(&p->port);
  return status;
}

void pl011_read_counters(struct pl011 *p, struct vmm_uart_counters *counters) {
  vmm_uart_lock(&p->port);
  *counters = (struct vmm_uart_counters){.rx_bytes = p->chip.rx_bytes,
                                         .tx_bytes = p->chip.tx_bytes,
                                         .rx_overruns = p->chip.rx_overruns,
                                         .tx_overruns = p->chip.tx_overruns,
                                         .interrupts = p->interrupts};
  vmm_uart_unlock(&p->port);
}
