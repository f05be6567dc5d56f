/* SPDX-License-Identifier: Apache-2.0 */
/* arm64 Image and EFI zboot image; see image.h. */
#include "image.h"

#include <inttypes.h>
#include <string.h>

/* Documentation/arch/arm64/booting.rst, "Call the kernel image". */
enum { TEXT_OFFSET = 8, IMAGE_SIZE = 16, FLAGS = 24, PE_OFFSET = 60, HEADER = 64 };
enum { FLAG_BIG_ENDIAN = 1, BASE_ALIGN = 2 << 20, OLD_TEXT_OFFSET = 0x80000 };
/* drivers/firmware/efi/libstub/zboot-header.S */
enum { PAYLOAD_OFFSET = 8, PAYLOAD_SIZE = 12, COMPRESSION = 24, COMPRESSION_MAX = 32 };
/* Microsoft Portable Executable and Common Object File Format Specification 8.3, §3 and §4. */
enum { COFF_HEADER = 24, SECTION_HEADER = 40, MAX_SECTIONS = 96, MAX_OPTIONAL = 4096, SIZE_OF_RAW = 16, RAW_POINTER = 20 };

#define AGAIN "fetch or build the kernel again"

/* The PE header that makes the kernel an EFI program also says how much of it must be in the file. 0, or as
 * image_parse(). */
static int check_pe(const struct image_view *view, struct image *out, uint64_t at) {
  if (at < HEADER || at > view->file_size || COFF_HEADER > view->file_size - at)
    return image_broken(view, "is truncated or damaged: its PE header is at 0x%" PRIx64 ", the file has 0x%" PRIx64
                        " bytes; " AGAIN, at, view->file_size);
  const uint8_t *pe = image_bytes(view, at, COFF_HEADER);
  if (!pe) return image_need(out, at, COFF_HEADER);
  if (memcmp(pe, "PE\0\0", 4)) return image_broken(view, "has a damaged PE header: wrong magic number; " AGAIN);
  out->machine = image_u16(pe + 4);
  uint32_t sections = image_u16(pe + 6), optional = image_u16(pe + 20);
  if (sections > MAX_SECTIONS || optional > MAX_OPTIONAL)
    return image_broken(view, "has a damaged PE header: %u sections, %u bytes of optional header; " AGAIN, sections,
                        optional);
  uint64_t table = at + COFF_HEADER + optional, size = (uint64_t)sections * SECTION_HEADER;
  if (!sections) return 0;
  if (table > view->file_size || size > view->file_size - table)
    return image_broken(view, "is truncated: its sections are at 0x%" PRIx64 ", the file has 0x%" PRIx64 " bytes; " AGAIN,
                        table, view->file_size);
  const uint8_t *s = image_bytes(view, table, size);
  if (!s) return image_need(out, table, size);
  for (uint32_t i = 0; i < sections; i++, s += SECTION_HEADER) {
    uint64_t raw = image_u32(s + SIZE_OF_RAW), end = raw + image_u32(s + RAW_POINTER);
    if (raw && end > view->file_size)
      return image_broken(view, "is truncated: it should have 0x%" PRIx64 " bytes, the file has 0x%" PRIx64 "; " AGAIN,
                          end, view->file_size);
  }
  return 0;
}

int image_parse_arm64(const struct image_view *view, struct image *out) {
  const uint8_t *h = image_bytes(view, 0, HEADER);
  if (!h) return image_need(out, 0, HEADER);
  uint64_t flags = image_u64(h + FLAGS);
  out->text_offset = image_u64(h + TEXT_OFFSET);
  out->image_size = image_u64(h + IMAGE_SIZE);
  out->machine = IMAGE_MACHINE_ARM64;
  if (flags & FLAG_BIG_ENDIAN) return image_broken(view, "is a big-endian kernel; use a little-endian one");
  if (!out->image_size) out->text_offset = OLD_TEXT_OFFSET; /* before Linux 3.17, in the kernel's own byte order */
  if (out->text_offset >= BASE_ALIGN || out->text_offset & 0xfff)
    return image_broken(view, "has a damaged header: text_offset 0x%" PRIx64 "; " AGAIN, out->text_offset);
  if ((out->image_size && out->image_size < HEADER) || out->image_size > UINT64_C(1) << 40)
    return image_broken(view, "has a damaged header: image_size 0x%" PRIx64 "; " AGAIN, out->image_size);
  if (!memcmp(h, "MZ", 2)) {
    int rc = check_pe(view, out, image_u32(h + PE_OFFSET));
    if (rc) return rc;
    if (out->machine != IMAGE_MACHINE_ARM64)
      return image_broken(view, "has a damaged PE header: it is for machine 0x%x; " AGAIN, out->machine);
  }
  return IMAGE_ARM64;
}

int image_parse_zboot(const struct image_view *view, struct image *out) {
  if (view->file_size < HEADER)
    return image_broken(view, "is truncated: an EFI zboot image of %" PRIu64 " bytes; " AGAIN, view->file_size);
  const uint8_t *h = image_bytes(view, 0, HEADER);
  if (!h) return image_need(out, 0, HEADER);
  int rc = check_pe(view, out, image_u32(h + PE_OFFSET));
  if (rc) return rc;

  const uint8_t *name = h + COMPRESSION;
  if (!memchr(name, 0, COMPRESSION_MAX))
    return image_broken(view, "has a damaged header: its compression has no name; " AGAIN);
  uint64_t offset = image_u32(h + PAYLOAD_OFFSET), size = image_u32(h + PAYLOAD_SIZE);
  /* gzip's own trailer has the decompressed size; behind all others the build appends it (Makefile.zboot). */
  uint64_t whole = size + (memcmp(name, "gzip", 5) ? 4 : 0);
  if (offset < HEADER || !size)
    return image_broken(view, "has a damaged header: a payload of 0x%" PRIx64 " bytes at 0x%" PRIx64 "; " AGAIN, size,
                        offset);
  if (offset > view->file_size || whole > view->file_size - offset)
    return image_broken(view, "is truncated: its payload is at 0x%" PRIx64 "+0x%" PRIx64 ", the file has 0x%" PRIx64
                        " bytes; " AGAIN, offset, whole, view->file_size);
  out->payload_offset = offset;
  out->payload_size = whole;
  return IMAGE_ZBOOT;
}
