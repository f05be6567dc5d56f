/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmamba.h - what Arm's PrimeCells have in common: 4 KiB of 32-bit registers on an APB (ARM IHI 0024), the last eight
 * of which say what it is (technical reference manuals of PL011, PL031, PL061, "Identification registers"). Header only.
 */
#ifndef VMMAMBA_H
#define VMMAMBA_H

#include "vmmcore.h"

#define VMM_AMBA_SIZE 0x1000u /* bytes of registers */

/* `reg` is a multiple of 4 below VMM_AMBA_SIZE. */
typedef uint32_t (*vmm_amba_read_fn)(void *chip, uint32_t reg);
typedef void (*vmm_amba_write_fn)(void *chip, uint32_t reg, uint32_t value);

/* An access of any size and alignment as whole registers: APB has no byte lanes. A narrow write is one of the value
 * with zeros above it, and only a register's first byte is its address. */
static inline void vmm_amba_access(void *chip, vmm_amba_read_fn read, vmm_amba_write_fn write, uint64_t offset,
                                   void *data, uint32_t size, int is_write) {
  uint8_t *bytes = data;
  while (size) {
    uint32_t at = offset & 3, n = size < 4 - at ? size : 4 - at, reg = (uint32_t)offset & (VMM_AMBA_SIZE - 4);
    if (!is_write) vmm_store(bytes, n, read(chip, reg) >> 8 * at);
    else if (!at) write(chip, reg, (uint32_t)vmm_load(bytes, n));
    offset += n;
    bytes += n;
    size -= n;
  }
}

/* PeriphID0–3 and PCellID0–3, at 0xfe0–0xffc, of Arm's (designer 0x41) part number `part`; 0 below. */
static inline uint32_t vmm_amba_id(uint32_t reg, uint32_t part, uint32_t revision) {
  uint8_t id[] = {part & 0xff, (uint8_t)(0x10 | part >> 8), (uint8_t)(revision << 4 | 0x4), 0x00,
                  0x0d, 0xf0, 0x05, 0xb1};
  return reg < 0xfe0 ? 0 : id[(reg - 0xfe0) / 4 % 8];
}

#endif
