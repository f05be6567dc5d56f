/* SPDX-License-Identifier: Apache-2.0 */
/* ELF64 vmlinux: program headers and the PVH note; see image.h. */
#include "image.h"

#include <inttypes.h>
#include <string.h>

enum { ET_EXEC = 2, ET_DYN = 3, EM_X86_64 = 62, EHDR = 64, PHDR = 56 };
enum { PT_LOAD = 1, PT_INTERP = 3, PT_NOTE = 4 };
enum { XEN_ELFNOTE_PHYS32_ENTRY = 18 };

#define AGAIN "fetch or build the kernel again"

static int add_segment(const struct image_view *view, struct image *out, const struct image_segment *s) {
  uint64_t ignored;
  if (s->filesz > s->memsz)
    return image_broken(view,
                        "has a damaged header: segment at 0x%" PRIx64 " has more bytes in the file (0x%" PRIx64
                        ") than in memory (0x%" PRIx64 "); " AGAIN,
                        s->paddr, s->filesz, s->memsz);
  if (s->offset > view->file_size || s->filesz > view->file_size - s->offset)
    return image_broken(view,
                        "is truncated: segment at 0x%" PRIx64 " needs file bytes 0x%" PRIx64 "+0x%" PRIx64
                        ", the file has 0x%" PRIx64 "; " AGAIN,
                        s->paddr, s->offset, s->filesz, view->file_size);
  if (__builtin_add_overflow(s->paddr, s->memsz, &ignored) || __builtin_add_overflow(s->vaddr, s->memsz - 1, &ignored))
    return image_broken(view,
                        "has a damaged header: segment at 0x%" PRIx64 " of 0x%" PRIx64
                        " bytes wraps around the address space; " AGAIN,
                        s->paddr, s->memsz);

  uint32_t i = out->segment_count; /* room is sure: e_phnum is at most IMAGE_MAX_SEGMENTS */
  for (; i && out->segments[i - 1].paddr > s->paddr; i--) out->segments[i] = out->segments[i - 1];
  out->segments[i] = *s;
  out->segment_count++;
  return 0;
}

/* The segment whose file part holds the byte: the first one that does. */
static const struct image_segment *holder(const struct image *image, uint64_t address, int physical) {
  for (uint32_t i = 0; i < image->segment_count; i++) {
    const struct image_segment *s = &image->segments[i];
    uint64_t base = physical ? s->paddr : s->vaddr;
    if (address >= base && address - base < s->filesz) return s;
  }
  return NULL;
}

static int find_pvh(const struct image_view *view, struct image *out, const uint8_t *p, uint64_t size,
                    uint64_t align) {
  while (size >= 12) {
    uint64_t name_size = image_u32(p), desc_size = image_u32(p + 4);
    uint64_t name = (name_size + align - 1) & ~(align - 1), desc = (desc_size + align - 1) & ~(align - 1);
    uint32_t type = image_u32(p + 8);
    size -= 12, p += 12;
    /* The padding behind the last description may be missing. */
    if (name > size || desc_size > size - name)
      return image_broken(view, "has a damaged note: it reaches behind its segment; " AGAIN);
    if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_size == 4 && !memcmp(p, "Xen", 4)) {
      if (desc_size != 4 && desc_size != 8)
        return image_broken(view, "has a damaged PVH note: an address of %" PRIu64 " bytes; " AGAIN, desc_size);
      uint64_t entry = desc_size == 4 ? image_u32(p + name) : image_u64(p + name);
      if (entry > UINT32_MAX || !holder(out, entry, 1))
        return image_broken(view, "has a damaged PVH note: entry 0x%" PRIx64 " is in no segment; " AGAIN, entry);
      out->pvh_entry = entry;
    }
    uint64_t step = name + desc;
    if (step > size) step = size;
    size -= step, p += step;
  }
  return 0;
}

int image_parse_elf(const struct image_view *view, struct image *out) {
  if (view->file_size < EHDR)
    return image_broken(view, "is truncated: an ELF file of %" PRIu64 " bytes; " AGAIN, view->file_size);
  const uint8_t *h = image_bytes(view, 0, EHDR);
  if (!h) return image_need(out, 0, EHDR);

  unsigned machine = h[5] == 2 ? (unsigned)(h[18] << 8 | h[19]) : image_u16(h + 18);
  if (machine != EM_X86_64)
    return image_broken(view, "is an ELF file for another machine (e_machine %u); use an x86-64 kernel", machine);
  if (h[4] != 2) return image_broken(view, "is a 32-bit ELF file; use an x86-64 kernel");
  if (h[5] != 1) return image_broken(view, "has a damaged header: a big-endian ELF file for x86-64; " AGAIN);
  unsigned type = image_u16(h + 16);
  if (type != ET_EXEC && type != ET_DYN)
    return image_broken(view, "is an ELF file of type %u (object file or core dump); use a vmlinux", type);

  uint64_t entry = image_u64(h + 24), phoff = image_u64(h + 32);
  unsigned phentsize = image_u16(h + 54), phnum = image_u16(h + 56);
  if (phnum < 1 || phnum > IMAGE_MAX_SEGMENTS)
    return image_broken(view, "has %u program headers, 1 to %d are supported; use a vmlinux", phnum,
                        IMAGE_MAX_SEGMENTS);
  if (phentsize != PHDR)
    return image_broken(view, "has a damaged header: e_phentsize %u instead of %d; " AGAIN, phentsize, PHDR);
  uint64_t table = (uint64_t)phnum * PHDR;
  if (phoff > view->file_size || table > view->file_size - phoff)
    return image_broken(view,
                        "is truncated: its program headers are at 0x%" PRIx64 ", the file has 0x%" PRIx64
                        " bytes; " AGAIN,
                        phoff, view->file_size);
  const uint8_t *ph = image_bytes(view, phoff, table);
  if (!ph) return image_need(out, phoff, table);

  for (unsigned i = 0; i < phnum; i++) {
    const uint8_t *p = ph + i * PHDR;
    uint32_t kind = image_u32(p);
    if (kind == PT_INTERP)
      return image_broken(view, "is a program that needs a dynamic loader, not a kernel; use a vmlinux");
    struct image_segment s = {image_u64(p + 8), image_u64(p + 16), image_u64(p + 24), image_u64(p + 32),
                              image_u64(p + 40)};
    if (kind != PT_LOAD || !(s.filesz | s.memsz)) continue;
    int rc = add_segment(view, out, &s);
    if (rc) return rc;
  }
  if (!out->segment_count) return image_broken(view, "has nothing to load (no PT_LOAD segment); use a vmlinux");
  for (uint32_t i = 1; i < out->segment_count; i++) {
    const struct image_segment *a = &out->segments[i - 1], *b = &out->segments[i];
    if (b->paddr - a->paddr < a->memsz)
      return image_broken(view,
                          "has a damaged header: segments at 0x%" PRIx64 " and 0x%" PRIx64 " overlap; " AGAIN,
                          a->paddr, b->paddr);
  }
  const struct image_segment *last = &out->segments[out->segment_count - 1];
  out->low = out->segments[0].paddr;
  out->high = last->paddr + last->memsz;

  /* Linux gives e_entry as a physical address, other kernels as a virtual one. */
  const struct image_segment *home = holder(out, entry, 1);
  if (home) {
    out->entry = entry;
  } else if ((home = holder(out, entry, 0))) {
    out->entry = entry - home->vaddr + home->paddr;
  } else {
    return image_broken(view, "has a damaged header: its entry point 0x%" PRIx64 " is in no segment; " AGAIN, entry);
  }

  for (unsigned i = 0; i < phnum && !out->pvh_entry; i++) {
    const uint8_t *p = ph + i * PHDR;
    if (image_u32(p) != PT_NOTE) continue;
    uint64_t offset = image_u64(p + 8), size = image_u64(p + 32), align = image_u64(p + 48);
    if (!size) continue;
    if (offset > view->file_size || size > view->file_size - offset)
      return image_broken(view,
                          "is truncated: its notes are at 0x%" PRIx64 "+0x%" PRIx64 ", the file has 0x%" PRIx64
                          " bytes; " AGAIN,
                          offset, size, view->file_size);
    if (size > IMAGE_MAX_NOTES)
      return image_broken(view, "has a damaged header: %" PRIu64 " bytes of notes; " AGAIN, size);
    const uint8_t *notes = image_bytes(view, offset, size);
    if (!notes) return image_need(out, offset, size);
    int rc = find_pvh(view, out, notes, size, align == 8 ? 8 : 4);
    if (rc) return rc;
  }
  return IMAGE_ELF;
}
