/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target: any accesses, input and room of the host in any order, against the chip alone. What it says of
 * itself must hold after each step, and what is saved must be restorable. See fuzz/run.sh.
 */
#include <stdlib.h>
#include <string.h>

#include "pl011_chip.h"
#include "vmmamba.h"

static size_t room;
static int raised;

static size_t transmit(void *opaque, const uint8_t *data, size_t len) {
  static volatile uint8_t sum;
  (void)opaque;
  if (len > room) len = room;
  for (size_t i = 0; i < len; i++) sum = (uint8_t)(sum + data[i]);
  room -= len;
  return len;
}

static void line(void *opaque, bool level) {
  (void)opaque;
  if (raised == level) abort(); /* only changes are told */
  raised = level;
}

static const struct pl011_ops ops = {transmit, line};

static void must(bool so) {
  if (!so) abort();
}

static uint32_t read_register(void *chip, uint32_t reg) { return pl011_chip_read(chip, reg); }
static void write_register(void *chip, uint32_t reg, uint32_t value) { pl011_chip_write(chip, reg, value); }

static void check(const struct pl011_chip *chip) {
  unsigned size = chip->s.lcr_h & LCR_FEN ? PL011_FIFO_SIZE : 1;
  must(chip->s.rx_len <= size && chip->s.tx_len <= size);
  must(raised == ((chip->s.ris & chip->s.imsc) != 0));
  must(!(chip->s.ris & (INT_RX | INT_RT)) || chip->s.rx_len);
  if ((chip->s.cr & (CR_RXE | CR_LBE)) == CR_RXE && !chip->s.rx_len) must(pl011_chip_wants_input(chip));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  struct pl011_chip chip;
  raised = 0;
  room = 100;
  pl011_chip_init(&chip, &ops, NULL);
  for (const uint8_t *end = data + len; end - data >= 4; data += 4) {
    uint32_t size = 1u << (data[0] >> 2 & 3), offset = (uint32_t)data[1] << 2 | (data[0] >> 4 & 3);
    uint8_t bytes[8];
    memset(bytes, data[3], sizeof bytes);
    memcpy(bytes, data + 2, 2);
    switch (data[0] & 3) {
      case 0: vmm_amba_access(&chip, read_register, write_register, offset, bytes, size, 0); break;
      case 1: vmm_amba_access(&chip, read_register, write_register, offset, bytes, size, 1); break;
      case 2: must(pl011_chip_receive(&chip, bytes, size) <= size); break;
      default:
        room = data[2];
        pl011_chip_drain(&chip);
    }
    check(&chip);
    struct pl011_state state = chip.s;
    must(pl011_chip_restore(&chip, &state) == 0);
    check(&chip);
  }
  struct pl011_state state;
  if (len < sizeof state) return 0;
  memcpy(&state, data - len / 4 * 4, sizeof state); /* one that nobody has saved */
  pl011_chip_restore(&chip, &state);
  check(&chip);
  return 0;
}
