/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - what a kernel file says about itself: bzImage, ELF64 vmlinux, arm64 Image, EFI zboot image.
 *
 * Pure parsers over a sparse view of the file, no I/O: the caller hands over the
 * pieces of the file that it has read so far. When a header points to a piece that
 * is missing, the answer is IMAGE_NEED and names the range; read it, add it, ask again.
 *
 * bzImage: Documentation/arch/x86/boot.rst. ELF: System V gABI 4.1 chapter 5.
 * PVH note: xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY.
 * Image: Documentation/arch/arm64/booting.rst. zboot: drivers/firmware/efi/libstub/zboot-header.S.
 */
#ifndef VMM_BOOT_LINUX_IMAGE_H
#define VMM_BOOT_LINUX_IMAGE_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin (the Python binding reads the lines up to "cdef end") */
enum { IMAGE_BROKEN = -1, IMAGE_FOREIGN = 0, IMAGE_BZIMAGE = 1, IMAGE_ELF = 2, IMAGE_NEED = 3, IMAGE_ARM64 = 4, IMAGE_ZBOOT = 5 };
enum { IMAGE_MACHINE_ARM64 = 0xaa64 };
enum { IMAGE_MAX_SEGMENTS = 64, IMAGE_MAX_NOTES = 1048576, IMAGE_MAX_CHUNKS = 72, IMAGE_ERROR_SIZE = 256 };

/* One piece of the file: `size` bytes from `offset`. */
struct image_chunk {
  uint64_t offset;
  const uint8_t *data;
  size_t size;
};

/* A PT_LOAD segment: `filesz` bytes at file `offset` go to guest physical `paddr`;
 * the rest up to `memsz` must be zero. */
struct image_segment {
  uint64_t offset, vaddr, paddr, filesz, memsz;
};

struct image {
  uint64_t need_offset, need_size; /* IMAGE_NEED: the range of the file to read */

  /* bzImage; addresses and sizes in bytes */
  uint32_t version;        /* boot protocol, 0x020f is 2.15 */
  uint32_t header_end;     /* file offset behind the setup header that starts at 0x1f1 */
  uint32_t alignment;      /* kernel_alignment */
  uint32_t cmdline_size;   /* longest command line without its final NUL */
  uint32_t xloadflags;
  int relocatable;
  uint64_t code_offset;    /* file offset of the protected-mode code */
  uint64_t code_size;      /* its bytes in the file */
  uint64_t init_size;      /* RAM it needs from its load address while it starts */
  uint64_t pref_address;   /* preferred load address */
  uint64_t initrd_max;     /* highest address that a byte of the initramfs may have */
  uint64_t payload_offset; /* file offset of the compressed vmlinux (zboot: Image); size 0: there is none */
  uint64_t payload_size;   /* with the decompressed size that is appended to it */

  /* ELF */
  uint64_t entry;     /* guest physical address of e_entry */
  uint64_t pvh_entry; /* of the PVH note; 0: no note */
  uint64_t low, high; /* guest physical range that the segments span */
  uint32_t segment_count;
  struct image_segment segments[64]; /* ascending paddr, none overlaps another */

  /* arm64 Image */
  uint64_t text_offset; /* from a 2 MiB boundary to the load address */
  uint64_t image_size;  /* RAM it needs from its load address; 0: unknown (before Linux 3.17) */
  uint32_t machine;     /* PE machine of an Image or a zboot image */
};

/* What is this file of `file_size` bytes? IMAGE_BROKEN: it is one of ours but lies;
 * `err` says how ("problem; mend"). Chunks may overlap and come in any order. */
int image_parse(const struct image_chunk *chunks, size_t count, uint64_t file_size, struct image *out, char *err,
                size_t errlen);
/* cdef end */

/* The formats (image_parse() picks by the magic number). */
struct image_view {
  const struct image_chunk *chunks;
  size_t count;
  uint64_t file_size;
  char *err;
  size_t errlen;
};
const uint8_t *image_bytes(const struct image_view *view, uint64_t offset, uint64_t size);
int image_need(struct image *out, uint64_t offset, uint64_t size);
int image_broken(const struct image_view *view, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int image_parse_bzimage(const struct image_view *view, struct image *out);
int image_parse_elf(const struct image_view *view, struct image *out);
int image_parse_arm64(const struct image_view *view, struct image *out);
int image_parse_zboot(const struct image_view *view, struct image *out);

static inline uint16_t image_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t image_u32(const uint8_t *p) { return image_u16(p) | (uint32_t)image_u16(p + 2) << 16; }
static inline uint64_t image_u64(const uint8_t *p) { return image_u32(p) | (uint64_t)image_u32(p + 4) << 32; }

#endif
