/* SPDX-License-Identifier: Apache-2.0 */
/* fw_cfg against a core of a few lines: both sets of registers, DMA with every length wrong.
 * Built with sanitizers and run by test_native.py. */
#include "fake_core.h"

#include <endian.h>
#include <sys/mman.h>

#include "fw_cfg.h"

/* --- the core: RAM of 8 pages in two pieces that are apart on the host ------------- */

enum { PAGE = 4096, PAGES = 8 };
static const uint64_t RAM = 0x40000000;
static uint8_t *page[PAGES];
static struct {
  vmm_io_fn io;
  void *opaque;
  int space, fail_bus;
  uint64_t len, dirty;
} core;

static int bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  (void)vm, (void)base;
  if (core.fail_bus) return -EEXIST;
  core.io = fn, core.opaque = opaque, core.space = space, core.len = len;
  return 0;
}
static int bus_del(vmm_vm *vm, int space, uint64_t base) {
  (void)vm, (void)base;
  CHECK(core.io && space == core.space);
  core.io = NULL;
  return 0;
}
static void *mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  if (gpa < RAM || gpa - RAM >= PAGES * PAGE || gpa % PAGE + len > PAGE) return NULL;
  return page[(gpa - RAM) / PAGE] + gpa % PAGE;
}
static void mem_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  CHECK(len && mem(NULL, gpa, len));
  core.dirty += len;
}
static void peek(uint64_t gpa, void *to, size_t n) {
  for (size_t i = 0; i < n; i++) ((uint8_t *)to)[i] = page[(gpa + i - RAM) / PAGE][(gpa + i) % PAGE];
}
static void poke(uint64_t gpa, const void *from, size_t n) {
  for (size_t i = 0; i < n; i++) page[(gpa + i - RAM) / PAGE][(gpa + i) % PAGE] = ((const uint8_t *)from)[i];
}

/* --- the guest ------------------------------------------------------------------- */

static void out(uint64_t offset, uint64_t value, uint32_t size) {
  uint8_t data[8];
  memcpy(data, &value, 8);
  core.io(core.opaque, offset, data, size, 1);
}
static uint64_t in(uint64_t offset, uint32_t size) {
  uint64_t value = ~(uint64_t)0;
  core.io(core.opaque, offset, &value, size, 0);
  return size == 8 ? value : value & (((uint64_t)1 << size * 8) - 1);
}
static void choose(uint16_t key) {
  if (core.space == VMM_PIO) out(0, key, 2);
  else out(8, htobe16(key), 2);
}
static uint8_t next(void) { return (uint8_t)in(core.space == VMM_PIO ? 1 : 0, 1); }
static void request(uint64_t at, uint32_t control, uint32_t length, uint64_t address) {
  control = htobe32(control), length = htobe32(length), address = htobe64(address);
  poke(at, &control, 4);
  poke(at + 4, &length, 4);
  poke(at + 8, &address, 8);
}
static uint32_t dma(uint64_t at, uint32_t control, uint32_t length, uint64_t address) {
  request(at, control, length, address);
  out(core.space == VMM_PIO ? 4 : 16, htobe32((uint32_t)(at >> 32)), 4);
  out(core.space == VMM_PIO ? 8 : 20, htobe32((uint32_t)at), 4);
  uint32_t answer;
  peek(at, &answer, 4);
  return be32toh(answer);
}

static int kernel;
static struct fw_cfg *start(int space) {
  int error = 1;
  struct fw_cfg *f = fw_cfg_new(&fake_api, NULL, &error);
  CHECK(f && !error && !core.io);
  CHECK(!fw_cfg_add(f, -1, "etc/one", "first", -1, 5));
  CHECK(!fw_cfg_add(f, -1, "opt/two", "", -1, 0));
  kernel = memfd_create("kernel", MFD_CLOEXEC);
  for (uint32_t i = 0; i < 3 * PAGE / 4; i++) CHECK(write(kernel, &i, 4) == 4);
  CHECK(!fw_cfg_add(f, 0x11, NULL, NULL, kernel, 3 * PAGE));
  CHECK(!fw_cfg_start(f, space, space == VMM_PIO ? 0x510 : 0x9030000));
  return f;
}
static void stop(struct fw_cfg *f) {
  fw_cfg_free(f);
  CHECK(!core.io && !close(kernel)); /* it stays ours */
}

/* --- cases ------------------------------------------------------------------------ */

static void items(int space) {
  struct fw_cfg *f = start(space);
  choose(0);
  CHECK(next() == 'Q' && next() == 'E' && next() == 'M' && next() == 'U' && next() == 0 && next() == 0);
  choose(1);
  CHECK(next() == 3 && next() == 0);
  choose(0x19);
  uint8_t dir[4 + 3 * 64];
  for (unsigned i = 0; i < sizeof dir; i++) dir[i] = next();
  CHECK(!memcmp(dir, "\0\0\0\2\0\0\0\5\0\x20\0\0etc/one", 19) && !memcmp(dir + 68, "\0\0\0\0\0\x21\0\0opt/two", 15));
  for (unsigned i = 4 + 2 * 64; i < sizeof dir; i++) CHECK(!dir[i]);
  choose(0x20);
  CHECK(next() == 'f' && next() == 'i');
  choose(0x20); /* from the start again */
  CHECK(next() == 'f');
  choose(0x21);
  CHECK(next() == 0);
  choose(0x4242);
  CHECK(next() == 0);
  choose(0x11);
  for (unsigned i = 0; i < 8; i++) CHECK(next() == (i == 4 ? 1 : 0));
  CHECK(!ftruncate(kernel, 16)); /* what is no more there reads as zeros */
  for (unsigned i = 8; i < 64; i++) next();
  CHECK(next() == 0);
  struct fw_cfg_counters counters;
  fw_cfg_read_counters(f, &counters);
  CHECK(counters.selects == 8 && !counters.dma_errors);
  stop(f);
}

static void widths(void) {
  struct fw_cfg *f = start(VMM_MMIO);
  CHECK(core.len == 0x18);
  choose(0x20);
  uint64_t value = in(0, 8);
  CHECK(!memcmp(&value, "first\0\0\0", 8));
  choose(0x20);
  CHECK(in(0, 2) == ('f' | 'i' << 8) && in(0, 4) == ('r' | 's' << 8 | 't' << 16));
  out(8, 0x20, 1); /* the selector has 16 bits */
  out(8, 0x20, 4);
  out(0, 'x', 1); /* and data is not written */
  CHECK(in(0, 1) == 0);
  CHECK(in(8, 2) == 0xffff && in(4, 8) == ~(uint64_t)0); /* nothing there */
  CHECK(be64toh(in(16, 8)) == 0x51454d5520434647 && be32toh((uint32_t)in(20, 4)) == 0x20434647);
  request(RAM, 1 << 3 | 1 << 1 | 0x20u << 16, 5, RAM + 100);
  out(16, htobe64(RAM), 8); /* all of the DMA register at once */
  uint8_t got[6];
  peek(RAM + 100, got, 6);
  CHECK(!memcmp(got, "first", 6));
  stop(f);
}

static void dma_lengths(int space) {
  struct fw_cfg *f = start(space);
  uint8_t ff[PAGE], got[PAGE];
  memset(ff, 0xff, sizeof ff);
  for (unsigned i = 0; i < PAGES; i++) memcpy(page[i], ff, PAGE);
  const uint64_t end = RAM + PAGES * PAGE, to = RAM + PAGE - 2;
  CHECK(dma(RAM + 16, 1 << 3 | 1 << 1 | 0x20u << 16, 8, to) == 0); /* over the end of a page, and of the item */
  peek(to - 1, got, 10);
  CHECK(!memcmp(got, "\xff" "first\0\0\0\xff", 10));
  CHECK(core.dirty == 8 + 4);
  CHECK(dma(RAM + PAGE - 8, 1 << 3 | 1 << 1 | 0x11u << 16, 3 * PAGE, RAM + 2 * PAGE + 4) == 0); /* the request too */
  for (uint32_t i = 0; i < 3 * PAGE / 4; i += 97) {
    peek(RAM + 2 * PAGE + 4 + 4 * i, got, 4);
    CHECK(!memcmp(got, &i, 4));
  }
  CHECK(dma(RAM, 1 << 3 | 1 << 2 | 0x11u << 16, 400, 0) == 0); /* skip */
  CHECK(next() == 100);
  CHECK(dma(RAM, 1 << 2, 0xffffffff, 0) == 0 && next() == 0);
  CHECK(dma(RAM, 1 << 3 | 0x20u << 16, 0, 0) == 0 && next() == 'f'); /* choose only */
  CHECK(dma(RAM, 1 << 1, 0, 0) == 0);                                /* nothing, nowhere */
  CHECK(dma(RAM, 1 << 3 | 1 << 1 | 0x11u << 16, 2 * PAGE, end - PAGE) == 1); /* over the end of RAM */
  CHECK(dma(RAM, 1 << 1, 1, end) == 1 && dma(RAM, 1 << 1, 1, RAM - 1) == 1);
  CHECK(dma(RAM, 1 << 1, 16, ~(uint64_t)0 - 7) == 1); /* around the address space */
  CHECK(dma(RAM, 1 << 1, 0xffffffff, RAM + PAGE) == 1);
  CHECK(dma(RAM, 1 << 4, 4, RAM + 64) == 1 && dma(RAM, 1 << 4, 0, 0) == 0); /* no item is writable */
  out(space == VMM_PIO ? 8 : 20, htobe32(0x1000), 4); /* a request that is no RAM */
  out(space == VMM_PIO ? 8 : 20, htobe32((uint32_t)end - 8), 4);
  struct fw_cfg_counters counters;
  fw_cfg_read_counters(f, &counters);
  CHECK(counters.dma_errors == 8);
  /* where it is may be kept and put back, whatever it says */
  struct fw_cfg_state state;
  choose(0x20);
  next();
  fw_cfg_save(f, &state);
  fw_cfg_reset(f);
  CHECK(next() == 'Q');
  fw_cfg_restore(f, &state);
  CHECK(next() == 'i');
  fw_cfg_restore(f, &(struct fw_cfg_state){0x20, 0xffffffff, 0xffffffff});
  CHECK(next() == 0 && next() == 0);
  stop(f);
}

static void adding(void) {
  int error;
  char name[80];
  struct fw_cfg *f = fw_cfg_new(&fake_api, NULL, &error);
  CHECK(fw_cfg_add(f, 0, NULL, "x", -1, 1) == -EEXIST && fw_cfg_add(f, 0x10000, NULL, "x", -1, 1) == -EINVAL);
  memset(name, 'n', sizeof name);
  name[56] = 0;
  CHECK(fw_cfg_add(f, -1, name, "x", -1, 1) == -EINVAL && fw_cfg_add(f, -1, "", "x", -1, 1) == -EINVAL);
  name[55] = 0;
  CHECK(!fw_cfg_add(f, -1, name, "x", -1, 1) && fw_cfg_add(f, -1, name, "x", -1, 1) == -EEXIST);
  CHECK(fw_cfg_add(f, -1, "n", NULL, -1, 1) == -EINVAL && fw_cfg_add(f, 5, "n", "x", -1, 1) == -EINVAL);
  for (int i = 1; i < FW_CFG_FILES; i++) {
    snprintf(name, sizeof name, "opt/%d", i);
    CHECK(!fw_cfg_add(f, -1, name, name, -1, 3));
  }
  CHECK(fw_cfg_add(f, -1, "one more", "x", -1, 1) == -ENOSPC);
  core.fail_bus = 1;
  CHECK(fw_cfg_start(f, VMM_MMIO, 0x9030000) == -EEXIST);
  core.fail_bus = 0;
  fw_cfg_free(f);
  struct vmm_api other = fake_api;
  other.major++;
  CHECK(!fw_cfg_new(&other, NULL, &error) && error == -ENOTSUP);
}

static void *reader(void *seed) {
  unsigned r = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 3000; i++) {
    r = r * 1103515245 + 12345;
    if (r & 1 << 12) choose((uint16_t)((r >> 16) & 0x3f));
    else if (r & 1 << 13) next();
    else out(20, htobe32((uint32_t)RAM + ((r >> 14) & 0x7fff)), 4);
  }
  return NULL;
}
static void at_once(void) {
  struct fw_cfg *f = start(VMM_MMIO);
  for (unsigned i = 0; i < PAGES; i++) memset(page[i], 0, PAGE);
  pthread_t thread[3];
  for (uintptr_t i = 0; i < 3; i++) CHECK(!pthread_create(&thread[i], NULL, reader, (void *)(i + 7)));
  for (unsigned i = 0; i < 3; i++) pthread_join(thread[i], NULL);
  stop(f);
}

int main(void) {
  fake_api.bus_add = bus_add, fake_api.bus_del = bus_del, fake_api.mem = mem, fake_api.mem_dirty = mem_dirty;
  for (unsigned i = 0; i < PAGES; i++) CHECK((page[i] = calloc(1, PAGE)));
  items(VMM_MMIO);
  items(VMM_PIO);
  widths();
  core.dirty = 0;
  dma_lengths(VMM_MMIO);
  core.dirty = 0;
  dma_lengths(VMM_PIO);
  adding();
  at_once();
  for (unsigned i = 0; i < PAGES; i++) free(page[i]);
  puts("ok");
  return 0;
}
