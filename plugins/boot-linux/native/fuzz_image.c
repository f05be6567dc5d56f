/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target for image_parse(): the parsers must neither read outside the
 * pieces they were given nor call an image good whose parts lie outside the file.
 *
 * Input: byte 0 chooses how much of the file is in the first piece, bytes 1-4 how
 * many bytes longer the file claims to be than it is, the rest is the file.
 */
#include "image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                \
  do {                                                             \
    if (!(what)) {                                                 \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
      abort();                                                     \
    }                                                              \
  } while (0)

/* A copy of exactly `size` bytes, so that the sanitizer sees every byte too far. */
static uint8_t *copy(const uint8_t *data, size_t size) {
  uint8_t *p = malloc(size ? size : 1);
  if (!p) abort();
  if (size) memcpy(p, data, size);
  return p;
}

static void check_bzimage(const struct image *m, uint64_t file_size) {
  CHECK(m->code_offset < file_size && m->code_size <= file_size - m->code_offset);
  CHECK(m->code_size > 0x200 && m->init_size >= m->code_size);
  CHECK(m->payload_offset >= m->code_offset);
  CHECK(m->payload_offset + m->payload_size <= m->code_offset + m->code_size);
  CHECK(m->header_end > 0x202 && m->header_end <= 0x290 && m->header_end <= file_size);
  CHECK(m->pref_address + m->init_size < UINT64_C(1) << 33);
}

static void check_elf(const struct image *m, uint64_t file_size) {
  int entry = 0, pvh = m->pvh_entry == 0;
  CHECK(m->segment_count >= 1 && m->segment_count <= IMAGE_MAX_SEGMENTS);
  for (uint32_t i = 0; i < m->segment_count; i++) {
    const struct image_segment *s = &m->segments[i];
    CHECK(s->offset <= file_size && s->filesz <= file_size - s->offset);
    CHECK(s->memsz && s->filesz <= s->memsz && s->paddr <= UINT64_MAX - s->memsz);
    if (i) CHECK(m->segments[i - 1].paddr + m->segments[i - 1].memsz <= s->paddr);
    entry |= m->entry - s->paddr < s->filesz;
    pvh |= m->pvh_entry - s->paddr < s->filesz;
  }
  CHECK(entry && pvh && m->pvh_entry <= UINT32_MAX);
  CHECK(m->low == m->segments[0].paddr && m->high > m->low);
}

static void check_arm64(const struct image *m) {
  CHECK(m->machine == IMAGE_MACHINE_ARM64);
  CHECK(m->text_offset < 2 << 20 && !(m->text_offset & 0xfff));
  CHECK(!m->image_size || (m->image_size >= 64 && m->image_size <= UINT64_C(1) << 40));
}

static void check_zboot(const struct image *m, uint64_t file_size) {
  CHECK(m->payload_offset >= 64 && m->payload_size);
  CHECK(m->payload_offset <= file_size && m->payload_size <= file_size - m->payload_offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  struct image_chunk chunks[IMAGE_MAX_CHUNKS];
  struct image image;
  char error[IMAGE_ERROR_SIZE];
  size_t count = 0;
  int kind;

  if (size < 5) return 0;
  const uint8_t *file = input + 5;
  size_t real = size - 5;
  size_t head = input[0] ? real * input[0] / 255 : 0;
  uint64_t file_size = real + (uint64_t)image_u32(input + 1) % 0x10000;
  chunks[count++] = (struct image_chunk){0, copy(file, head), head};

  while ((kind = image_parse(chunks, count, file_size, &image, error, sizeof error)) == IMAGE_NEED) {
    uint64_t offset = image.need_offset, need = image.need_size;
    CHECK(need && offset <= file_size && need <= file_size - offset);
    CHECK(!image_bytes(&(struct image_view){chunks, count, file_size, NULL, 0}, offset, need));
    if (offset > real || need > real - offset) break; /* the end that the file only claims to have */
    CHECK(count < IMAGE_MAX_CHUNKS);
    chunks[count++] = (struct image_chunk){offset, copy(file + offset, need), need};
  }
  switch (kind) {
    case IMAGE_BZIMAGE: check_bzimage(&image, file_size); break;
    case IMAGE_ELF: check_elf(&image, file_size); break;
    case IMAGE_ARM64: check_arm64(&image); break;
    case IMAGE_ZBOOT: check_zboot(&image, file_size); break;
    case IMAGE_BROKEN: CHECK(strstr(error, "; ") && !strchr(error, '\n')); break;
    default: CHECK(kind == IMAGE_FOREIGN || kind == IMAGE_NEED);
  }
  while (count) free((void *)chunks[--count].data);
  return 0;
}
