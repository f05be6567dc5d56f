/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The firmware configuration device: named items that firmware reads. QEMU's docs/specs/fw_cfg.rst.
 * Items are added, then the device is started; from then on they do not change.
 */
#ifndef FW_CFG_H
#define FW_CFG_H

#include <stdint.h>

enum {
  FW_CFG_SIGNATURE = 0x00,
  FW_CFG_ID = 0x01,
  FW_CFG_FILE_DIR = 0x19,
  FW_CFG_FILE_FIRST = 0x20,
  FW_CFG_FILES = 0x100,    /* at most */
  FW_CFG_NAME = 56,        /* bytes of a file's name with its final NUL */
  FW_CFG_MMIO_SIZE = 0x18, /* bytes of registers */
  FW_CFG_PIO_SIZE = 12,
};

struct fw_cfg;

struct fw_cfg_state {
  uint16_t key;
  uint32_t offset;
  uint32_t dma_high;
};

struct fw_cfg_counters {
  uint64_t selects, read_bytes, dma_errors;
};

/* No registers yet. NULL and *error = -errno on failure. */
struct fw_cfg *fw_cfg_new(const void *api, void *vm, int *error);
/* An item under a number of its own, or (key -1) a file. `data` is copied; or NULL, then it is the first `size` bytes of
 * `fd`, which stays the caller's and open. 0 or -errno: -EEXIST for a name or number that is there, -ENOSPC, -EINVAL. */
int fw_cfg_add(struct fw_cfg *f, int key, const char *name, const void *data, int fd, uint32_t size);
/* Map the registers: VMM_MMIO as on Arm, VMM_PIO as on a PC. 0 or -errno. */
int fw_cfg_start(struct fw_cfg *f, int space, uint64_t address);
/* From any thread but a vCPU's. */
void fw_cfg_free(struct fw_cfg *f);

void fw_cfg_reset(struct fw_cfg *f);
void fw_cfg_save(struct fw_cfg *f, struct fw_cfg_state *state);
void fw_cfg_restore(struct fw_cfg *f, const struct fw_cfg_state *state);
void fw_cfg_read_counters(struct fw_cfg *f, struct fw_cfg_counters *counters);

#endif
