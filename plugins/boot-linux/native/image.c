/* SPDX-License-Identifier: Apache-2.0 */
/* The sparse view of a file, and the choice of the format; see image.h. */
#include "image.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const uint8_t *image_bytes(const struct image_view *view, uint64_t offset, uint64_t size) {
  for (size_t i = 0; i < view->count; i++) {
    const struct image_chunk *c = &view->chunks[i];
    if (offset < c->offset) continue;
    uint64_t skip = offset - c->offset;
    if (skip <= c->size && size <= c->size - skip) return c->data + skip;
  }
  return NULL;
}

int image_need(struct image *out, uint64_t offset, uint64_t size) {
  out->need_offset = offset;
  out->need_size = size;
  return IMAGE_NEED;
}

int image_broken(const struct image_view *view, const char *fmt, ...) {
  if (view->err && view->errlen) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(view->err, view->errlen, fmt, args);
    va_end(args);
  }
  return IMAGE_BROKEN;
}

int image_parse(const struct image_chunk *chunks, size_t count, uint64_t file_size, struct image *out, char *err,
                size_t errlen) {
  struct image_view view = {chunks, count, file_size, err, errlen};
  memset(out, 0, sizeof *out);
  if (err && errlen) err[0] = 0;

  if (file_size < 4) return IMAGE_FOREIGN;
  const uint8_t *magic = image_bytes(&view, 0, 4);
  if (!magic) return image_need(out, 0, 4);
  if (!memcmp(magic, "\177ELF", 4)) return image_parse_elf(&view, out);

  if (file_size >= 8 && !memcmp(magic, "MZ\0\0", 4)) {
    if (!(magic = image_bytes(&view, 4, 4))) return image_need(out, 4, 4);
    if (!memcmp(magic, "zimg", 4)) return image_parse_zboot(&view, out);
  }
  if (file_size < 64) return IMAGE_FOREIGN;
  if (!(magic = image_bytes(&view, 56, 4))) return image_need(out, 56, 4);
  if (!memcmp(magic, "ARM\x64", 4)) return image_parse_arm64(&view, out);

  if (file_size < 0x206) return IMAGE_FOREIGN;
  magic = image_bytes(&view, 0x202, 4);
  if (!magic) return image_need(out, 0x202, 4);
  if (!memcmp(magic, "HdrS", 4)) return image_parse_bzimage(&view, out);
  return IMAGE_FOREIGN;
}
