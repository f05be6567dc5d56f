/* SPDX-License-Identifier: Apache-2.0 */
/* The setup header of a bzImage (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header"). */
#include "image.h"

#include <inttypes.h>

/* File offsets of the header's fields. */
enum {
  SETUP_SECTS = 0x1f1,
  SYSSIZE = 0x1f4,
  BOOT_FLAG = 0x1fe,
  JUMP = 0x200,
  VERSION = 0x206,
  LOADFLAGS = 0x211,
  INITRD_ADDR_MAX = 0x22c,
  KERNEL_ALIGNMENT = 0x230,
  RELOCATABLE = 0x234,
  XLOADFLAGS = 0x236,
  CMDLINE_SIZE = 0x238,
  PAYLOAD_OFFSET = 0x248,
  PAYLOAD_LENGTH = 0x24c,
  PREF_ADDRESS = 0x258,
  INIT_SIZE = 0x260,
  HANDOVER_OFFSET = 0x264,
  HEADER_MIN = 0x268, /* end of the fields of protocol 2.12 */
  HEADER_MAX = 0x290, /* boot_params has something else from here on */
};

#define AGAIN "fetch or build the kernel again"

static int power_of_two(uint64_t v) { return v && !(v & (v - 1)); }

int image_parse_bzimage(const struct image_view *view, struct image *out) {
  if (view->file_size < HEADER_MAX)
    return image_broken(view, "is truncated: a bzImage of %" PRIu64 " bytes; " AGAIN, view->file_size);
  const uint8_t *h = image_bytes(view, 0, HEADER_MAX);
  if (!h) return image_need(out, 0, HEADER_MAX);

  if (image_u16(h + BOOT_FLAG) != 0xaa55)
    return image_broken(view, "has a damaged header: boot flag 0x%04x instead of 0xaa55; " AGAIN,
                        image_u16(h + BOOT_FLAG));
  out->version = image_u16(h + VERSION);
  if (out->version < 0x020c)
    return image_broken(view,
                        "speaks boot protocol %u.%02u, older than 2.12; use a 64-bit Linux 3.8 or later",
                        out->version >> 8, out->version & 0xff);
  if (!(h[LOADFLAGS] & 1))
    return image_broken(view, "is a zImage, which loads below 1 MiB; use a bzImage");
  out->xloadflags = image_u16(h + XLOADFLAGS);
  if (!(out->xloadflags & 1))
    return image_broken(view, "is a 32-bit kernel (its header lacks XLF_KERNEL_64); use an x86-64 kernel");

  /* The short jump at 0x200 leaps over the header: its operand counts from 0x202. */
  out->header_end = 0x202u + h[JUMP + 1];
  if (h[JUMP] != 0xeb || out->header_end < HEADER_MIN || out->header_end > HEADER_MAX)
    return image_broken(view, "has a damaged header: it would end at 0x%x, not in 0x%x..0x%x; " AGAIN,
                        out->header_end, HEADER_MIN, HEADER_MAX);

  uint32_t sectors = h[SETUP_SECTS] ? h[SETUP_SECTS] : 4;
  out->code_offset = (sectors + 1) * 512u;
  uint64_t units = (uint64_t)image_u32(h + SYSSIZE) * 16;
  if (!units) return image_broken(view, "has a damaged header: syssize is 0; " AGAIN);
  /* syssize counts in 16 bytes, so the last unit may end behind the file. */
  if (out->code_offset + units > view->file_size + 15)
    return image_broken(view, "is truncated: its header promises %" PRIu64 " bytes, the file has %" PRIu64 "; " AGAIN,
                        out->code_offset + units, view->file_size);
  out->code_size = view->file_size - out->code_offset;
  if (out->code_size > units) out->code_size = units;
  /* The 64-bit entry is 0x200 bytes into the code. */
  if (out->code_size <= 0x200)
    return image_broken(view, "has a damaged header: %" PRIu64 " bytes of code; " AGAIN, out->code_size);

  out->init_size = image_u32(h + INIT_SIZE);
  if (out->init_size < out->code_size)
    return image_broken(view,
                        "has a damaged header: init_size 0x%" PRIx64 " is less than its code (0x%" PRIx64
                        " bytes); " AGAIN,
                        out->init_size, out->code_size);
  out->relocatable = h[RELOCATABLE] != 0;
  out->alignment = image_u32(h + KERNEL_ALIGNMENT);
  if (!power_of_two(out->alignment) || out->alignment < 0x1000)
    return image_broken(view, "has a damaged header: kernel_alignment 0x%x; " AGAIN, out->alignment);
  out->pref_address = image_u64(h + PREF_ADDRESS);
  if (out->pref_address < 0x100000 || out->pref_address > UINT32_MAX || out->pref_address & 0xfff)
    return image_broken(view, "has a damaged header: pref_address 0x%" PRIx64 "; " AGAIN, out->pref_address);

  out->cmdline_size = image_u32(h + CMDLINE_SIZE);
  if (out->cmdline_size < 255 || out->cmdline_size > 0x100000)
    return image_broken(view, "has a damaged header: cmdline_size %u; " AGAIN, out->cmdline_size);
  out->initrd_max = image_u32(h + INITRD_ADDR_MAX);
  if (out->initrd_max < 0x100000)
    return image_broken(view, "has a damaged header: initrd_addr_max 0x%" PRIx64 "; " AGAIN, out->initrd_max);
  /* XLF_CAN_BE_LOADED_ABOVE_4G also lifts initrd_addr_max, but we load below 4 GiB anyway. */

  uint32_t handover = image_u32(h + HANDOVER_OFFSET);
  if (out->xloadflags & 0xc && handover >= out->code_size)
    return image_broken(view, "has a damaged header: handover_offset 0x%x is behind its code; " AGAIN, handover);

  uint64_t payload = image_u32(h + PAYLOAD_OFFSET), length = image_u32(h + PAYLOAD_LENGTH);
  if (payload > out->code_size || length > out->code_size - payload)
    return image_broken(view,
                        "has a damaged header: its payload (0x%" PRIx64 "+0x%" PRIx64
                        ") reaches behind its code (0x%" PRIx64 " bytes); " AGAIN,
                        payload, length, out->code_size);
  out->payload_offset = out->code_offset + payload;
  out->payload_size = length;
  return IMAGE_BZIMAGE;
}
