/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target for fw_cfg: a guest with two pages of RAM, each a piece of host memory of its own, so that the
 * sanitizer sees every byte beside them. Input: byte 0 says which registers; the first KiB of what follows is the guest's
 * RAM at first; then records of 10 bytes, an access each: width and direction, where, what.
 */
#include "fw_cfg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmmcore.h"

enum { PAGE = 4096 };
static const uint64_t RAM = 0x40000000;
static uint8_t *pages[2];
static vmm_io_fn handler;
static void *opaque;

static int bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *data) {
  (void)vm, (void)space, (void)base, (void)len;
  handler = fn, opaque = data;
  return 0;
}
static int bus_del(vmm_vm *vm, int space, uint64_t base) {
  (void)vm, (void)space, (void)base;
  return 0;
}
static void *mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  uint64_t at = gpa - RAM;
  return at < 2 * PAGE && at % PAGE + len <= PAGE ? pages[at / PAGE] + at % PAGE : NULL;
}
static void mem_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  if (!len || !mem(vm, gpa, len)) abort();
}
static const struct vmm_api api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof api,
    .bus_add = bus_add, .bus_del = bus_del, .mem = mem, .mem_dirty = mem_dirty,
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size < 1) return 0;
  int space = input[0] & 1 ? VMM_PIO : VMM_MMIO, error;
  input++, size--;
  for (unsigned i = 0; i < 2; i++)
    if (!(pages[i] = calloc(1, PAGE))) abort();
  size_t ram = size < 1024 ? size : 1024;
  memcpy(pages[0], input, ram);
  input += ram, size -= ram;

  struct fw_cfg *f = fw_cfg_new(&api, NULL, &error);
  if (!f || fw_cfg_add(f, -1, "etc/a", "some text", -1, 9) || fw_cfg_add(f, -1, "b", "", -1, 0) ||
      fw_cfg_add(f, 0x11, NULL, pages[0], -1, PAGE) || fw_cfg_start(f, space, 0x1000))
    abort();
  uint64_t room = space == VMM_PIO ? FW_CFG_PIO_SIZE : FW_CFG_MMIO_SIZE;
  for (; size >= 10; input += 10, size -= 10) {
    uint32_t width = 1u << (input[0] & 3);
    uint8_t data[8];
    memcpy(data, input + 2, 8);
    handler(opaque, input[1] % (room - width + 1), data, width, input[0] >> 2 & 1);
  }
  fw_cfg_free(f);
  for (unsigned i = 0; i < 2; i++) free(pages[i]);
  return 0;
}
