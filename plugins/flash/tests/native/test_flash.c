/* SPDX-License-Identifier: Apache-2.0 */
/* A bank of flash against a core of a few lines: commands as EDK2 and Linux's cfi_cmdset_0001 give them, the memory slot,
 * what ends up in the file. Built with sanitizers and run by test_native.py. */
#include "fake_core.h"

#include <sys/mman.h>

#include "flash.h"

enum { SIZE = 1 << 20, BLOCK = NOR_BLOCK };
static const uint64_t BASE = 0x04000000;

/* --- the core -------------------------------------------------------------------- */

static struct {
  vmm_io_fn io;
  void *opaque;
  uint64_t base, len, slot_size;
  const uint8_t *slot;
  int fail_bus, fail_slot;
  unsigned slots_set, logs;
} core;

static int bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  (void)vm;
  CHECK(space == VMM_MMIO);
  if (core.fail_bus) return -EEXIST;
  core.io = fn, core.opaque = opaque, core.base = base, core.len = len;
  return 0;
}
static int bus_del(vmm_vm *vm, int space, uint64_t base) {
  (void)vm;
  CHECK(space == VMM_MMIO && base == core.base && core.io);
  core.io = NULL;
  return 0;
}
static int mem_slot(vmm_vm *vm, int *slot, uint64_t gpa, uint64_t size, void *hva, uint32_t flags) {
  (void)vm;
  CHECK(gpa == core.base || !core.io);
  if (core.fail_slot) return -ENOSPC;
  if (!size) {
    CHECK(*slot == 7 && core.slot);
    *slot = -1, core.slot = NULL;
  } else {
    CHECK(*slot == -1 && !core.slot && flags == VMM_SLOT_READONLY && size % 4096 == 0);
    *slot = 7, core.slot = hva, core.slot_size = size, core.slots_set++;
  }
  return 0;
}
static void fake_log(vmm_vm *vm, int level, const char *fmt, ...) {
  (void)vm, (void)fmt;
  CHECK(level >= 3 && level <= 4);
  core.logs++;
}

/* --- the guest ------------------------------------------------------------------- */

static void put(uint64_t at, uint32_t value, uint32_t size) {
  uint8_t data[8] = {0};
  memcpy(data, &value, 4);
  CHECK(at + size <= core.len);
  core.io(core.opaque, at, data, size, 1);
}
static void cmd(uint64_t at, uint16_t value) { put(at, (uint32_t)value << 16 | value, 4); }
static uint64_t get_n(uint64_t at, uint32_t size) {
  uint64_t value = 0;
  if (core.slot && at < core.slot_size) memcpy(&value, core.slot + at, size); /* without leaving the guest */
  else {
    value = ~(uint64_t)0;
    core.io(core.opaque, at, &value, size, 0);
    if (size < 8) value &= ((uint64_t)1 << size * 8) - 1;
  }
  return value;
}
static uint32_t get(uint64_t at) { return (uint32_t)get_n(at, 4); }
static uint32_t both(uint16_t value) { return (uint32_t)value << 16 | value; }
static uint32_t status(void) {
  cmd(0, 0x70);
  return get(0);
}
static void done(void) {
  cmd(0, 0x50);
  cmd(0, 0xff);
}

/* --- the host --------------------------------------------------------------------- */

static int file;
static struct flash *start(uint8_t fill, uint64_t backed, int writable) {
  int error = 1;
  file = memfd_create("flash", MFD_CLOEXEC);
  uint8_t *data = malloc(backed);
  memset(data, fill, backed);
  CHECK(write(file, data, backed) == (ssize_t)backed);
  free(data);
  struct flash *f = flash_new(&fake_api, NULL, BASE, SIZE, dup(file), backed, writable, &error);
  CHECK(f && !error && core.base == BASE && core.len == SIZE && core.slot);
  return f;
}
static uint32_t in_file(uint64_t at) {
  uint32_t value;
  CHECK(pread(file, &value, 4, (off_t)at) == 4);
  return value;
}
static void stop(struct flash *f) {
  flash_free(f);
  CHECK(!core.io && !core.slot);
  close(file);
}

/* --- cases ------------------------------------------------------------------------ */

static void reading(void) {
  struct flash *f = start(0x5a, SIZE, 1);
  CHECK(get(0) == 0x5a5a5a5a && core.slot_size == SIZE);
  cmd(BLOCK, 0x90);
  CHECK(!core.slot && get(BLOCK) == both(0x89) && get(BLOCK + 4) == both(0x1d) && get(BLOCK + 8) == 0);
  CHECK(get_n(BLOCK, 1) == 0x89 && get_n(BLOCK + 1, 1) == 0 && get_n(BLOCK + 2, 2) == 0x89);
  CHECK(get_n(BLOCK, 8) == ((uint64_t)both(0x1d) << 32 | both(0x89)));
  cmd(0x154, 0x98);
  const char *text = "QRY\1";
  for (unsigned i = 0; i < 4; i++) CHECK(get(4 * (0x10 + i)) == both((uint8_t)text[i]));
  CHECK(get(4 * 0x27) == both(19));                                              /* each chip: 512 KiB */
  CHECK(get(4 * 0x2d) == both(3) && get(4 * 0x2e) == 0);                         /* four blocks */
  CHECK((get(4 * 0x2f) & 0xff) == 0 && (get(4 * 0x30) & 0xff) == 2);             /* of 128 KiB */
  CHECK(get(4 * 0x2a) == both(6) && get(4 * 0x31) == both('P'));
  CHECK(get(SIZE - 4) == 0);
  cmd(0, 0xf0); /* a probe for another make of chips */
  CHECK(core.slot && get(0) == 0x5a5a5a5a);
  cmd(0, 0x70);
  CHECK(get(SIZE / 2) == both(0x80));
  cmd(0, 0xff);
  stop(f);
}

static void programming(void) {
  struct flash *f = start(0xff, SIZE, 1);
  cmd(0x100, 0x40);
  put(0x100, 0x12345678, 4);
  CHECK(get(0x100) == both(0x80) && status() == both(0x80)); /* done at once */
  done();
  CHECK(get(0x100) == 0x12345678 && get(0x104) == 0xffffffff && in_file(0x100) == 0x12345678);
  cmd(0x100, 0x10); /* bits are cleared, never set */
  put(0x100, 0xffff0000, 4);
  done();
  CHECK(get(0x100) == 0x12340000);
  cmd(0x200, 0x40);
  put(0x202, 0xab, 1);
  done();
  CHECK(get(0x200) == 0xffabffff);

  cmd(BLOCK, 0xe8); /* buffered: EDK2 looks at the status in the same place */
  CHECK((get(BLOCK) & both(0x80)) == both(0x80));
  cmd(BLOCK, 31);
  for (uint32_t i = 0; i < 32; i++) put(BLOCK + 4 * i, i * 0x01010101, 4);
  CHECK(in_file(BLOCK) == 0xffffffff); /* not before it is confirmed */
  cmd(0, 0xd0);
  CHECK(status() == both(0x80));
  done();
  for (uint32_t i = 0; i < 32; i++) CHECK(get(BLOCK + 4 * i) == i * 0x01010101 && in_file(BLOCK + 4 * i) == get(BLOCK + 4 * i));
  CHECK(get(BLOCK + 128) == 0xffffffff);

  cmd(BLOCK, 0xe8); /* a few words in the midst of a page */
  cmd(BLOCK, 1);
  put(2 * BLOCK + 0x48, 1, 4);
  put(2 * BLOCK + 0x44, 2, 4);
  cmd(2 * BLOCK, 0xd0);
  done();
  CHECK(get(2 * BLOCK + 0x40) == 0xffffffff && get(2 * BLOCK + 0x44) == 2 && get(2 * BLOCK + 0x48) == 1);
  struct flash_counters counters;
  flash_read_counters(f, &counters);
  CHECK(counters.programs == 5 && counters.erases == 0);
  stop(f);
}

static void wrong_sequences(void) {
  struct flash *f = start(0xff, SIZE, 1);
  const uint32_t sequence = both(0xb0);
  cmd(0, 0xe8);
  cmd(0, 32); /* more words than the buffer has */
  CHECK(status() == sequence);
  cmd(0, 0x50);
  CHECK(status() == both(0x80));
  cmd(0, 0xe8);
  cmd(0, 1);
  put(0x00, 0, 4);
  put(0x80, 0, 4); /* another page */
  CHECK(status() == sequence);
  cmd(0, 0x50);
  cmd(0, 0xe8);
  cmd(0, 0);
  put(0, 0, 4);
  cmd(0, 0xff); /* no confirmation */
  CHECK(status() == sequence);
  cmd(0, 0x50);
  cmd(0, 0x20);
  cmd(0, 0xff);
  CHECK(status() == sequence);
  cmd(0, 0x50);
  cmd(0, 0x60);
  cmd(0, 0x77);
  CHECK(status() == sequence);
  cmd(0, 0x50);
  cmd(0, 0xc0); /* there are no protection registers */
  put(0, 0, 4);
  CHECK(status() == both(0x92));
  cmd(0, 0x50);
  cmd(BLOCK - 2, 0x40); /* commands go to whole words … */
  cmd(0, 0x40);
  put(BLOCK - 2, 0, 4); /* … and no program over the end of a block */
  CHECK(status() == both(0x90));
  done();
  CHECK(get(0) == 0xffffffff && get(0x80) == 0xffffffff && get(BLOCK - 4) == 0xffffffff && get(BLOCK) == 0xffffffff);
  stop(f);
}

static void erasing(void) {
  struct flash *f = start(0, SIZE, 1);
  cmd(BLOCK, 0x20);
  cmd(BLOCK, 0xd0);
  CHECK(status() == both(0x80));
  done();
  CHECK(get(BLOCK - 4) == 0 && get(BLOCK) == 0xffffffff && get(2 * BLOCK - 4) == 0xffffffff && get(2 * BLOCK) == 0);
  CHECK(in_file(BLOCK) == 0xffffffff && in_file(0) == 0);
  cmd(3 * BLOCK + 0x1234 * 4, 0x20); /* anywhere in the block */
  cmd(3 * BLOCK + 0x1234 * 4, 0xd0);
  done();
  CHECK(get(3 * BLOCK) == 0xffffffff && get(SIZE - 4) == 0xffffffff);
  stop(f);
}

static void locking(void) {
  struct flash *f = start(0xff, SIZE, 1);
  cmd(BLOCK, 0x60);
  cmd(BLOCK, 0x01);
  cmd(BLOCK, 0x90);
  CHECK(get(BLOCK + 8) == both(1) && get(8) == 0);
  cmd(BLOCK, 0x40);
  put(BLOCK, 0, 4);
  CHECK(status() == both(0x92));
  cmd(0, 0x50);
  cmd(BLOCK, 0x20);
  cmd(BLOCK, 0xd0);
  CHECK(status() == both(0xa2));
  cmd(0, 0x50);
  cmd(BLOCK, 0xe8);
  cmd(BLOCK, 0);
  put(BLOCK, 0xffffffff, 4); /* would change nothing, but is not allowed either */
  cmd(BLOCK, 0xd0);
  CHECK(status() == both(0x92));
  cmd(0, 0x50);
  cmd(BLOCK, 0x60);
  cmd(BLOCK, 0xd0);
  cmd(BLOCK, 0x40);
  put(BLOCK, 7, 4);
  CHECK(status() == both(0x80));
  cmd(0, 0x60);
  cmd(0, 0x2f); /* down: no unlocking until the next reset */
  cmd(0, 0x60);
  cmd(0, 0xd0);
  cmd(0, 0x90);
  CHECK(get(8) == both(3));
  struct nor_state state;
  flash_save(f, &state);
  flash_reset(f);
  CHECK(core.slot && get(BLOCK) == 7);
  cmd(0, 0x90);
  CHECK(get(8) == 0);
  CHECK(!flash_restore(f, &state));
  CHECK(!core.slot && get(8) == both(3));
  state.lock[9] = 2;
  CHECK(flash_restore(f, &state) == -1);
  state.lock[9] = 0, state.at = SIZE;
  CHECK(flash_restore(f, &state) == -1);
  state.at = 0, state.command = 0xea;
  CHECK(flash_restore(f, &state) == -1);
  stop(f);
}

static void code(void) {
  struct flash *f = start(0x11, 5000, 0);
  CHECK(core.slot_size == 8192 && get(0) == 0x11111111 && get(4996) == 0x11111111 && get(8192) == 0xffffffff);
  cmd(0, 0x40);
  put(0, 0, 4);
  CHECK(status() == both(0x92));
  cmd(0, 0x20);
  cmd(0, 0xd0);
  CHECK(status() == both(0xb2));
  cmd(0, 0x90);
  CHECK(get(8) == both(1) && !core.slot);
  done();
  CHECK(get(0) == 0x11111111 && in_file(0) == 0x11111111);
  cmd(0, 0x70);
  stop(f); /* in the midst of something */
}

static void wide(void) {
  struct flash *f = start(0xff, SIZE, 1);
  uint64_t eight = 0x00ff00ff;
  uint8_t data[8];
  cmd(0, 0xe8);
  cmd(0, 1);
  memcpy(data, &eight, 8);
  core.io(core.opaque, 0, data, 8, 1); /* two words */
  cmd(0, 0xd0);
  CHECK(status() == both(0x80));
  done();
  CHECK(get_n(0, 8) == eight);
  stop(f);
}

static void nothing_left_behind(void) {
  int error;
  int fd = memfd_create("flash", MFD_CLOEXEC);
  CHECK(!ftruncate(fd, SIZE));
  CHECK(!flash_new(&fake_api, NULL, BASE + 1, SIZE, dup(fd), SIZE, 1, &error) && error == -EINVAL);
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE - 4096, dup(fd), SIZE - 4096, 1, &error) && error == -EINVAL);
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE, dup(fd), SIZE / 2, 1, &error) && error == -EINVAL);
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE, dup(fd), 0, 0, &error) && error == -EINVAL);
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE / 2, dup(fd), SIZE / 2, 0, &error) && error == -EINVAL);
  CHECK(!flash_new(&fake_api, NULL, ~(uint64_t)4095, SIZE, dup(fd), SIZE, 0, &error) && error == -EINVAL);
  core.fail_bus = 1;
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE, dup(fd), SIZE, 1, &error) && error == -EEXIST);
  core.fail_bus = 0, core.fail_slot = 1;
  CHECK(!flash_new(&fake_api, NULL, BASE, SIZE, dup(fd), SIZE, 1, &error) && error == -ENOSPC);
  core.fail_slot = 0;
  struct vmm_api old = fake_api;
  old.minor = 1;
  CHECK(!flash_new(&old, NULL, BASE, SIZE, dup(fd), SIZE, 1, &error) && error == -ENOTSUP);
  CHECK(dup(fd) == fd + 1); /* none of them kept its descriptor */
  close(fd + 1);
  close(fd);
}

static void slow_without_a_slot(void) {
  struct flash *f = start(0x5a, SIZE, 1);
  cmd(0, 0x70);
  core.fail_slot = 1;
  unsigned logs = core.logs;
  cmd(0, 0xff);
  cmd(0, 0x70);
  cmd(0, 0xff);
  CHECK(core.logs == logs + 1 && get(0) == 0x5a5a5a5a);
  core.fail_slot = 0;
  cmd(0, 0x70);
  cmd(0, 0xff);
  CHECK(core.slot);
  stop(f);
}

/* Several vCPUs at once, as a guest without any sense may do it. */
static void *chaos(void *seed) {
  unsigned r = (unsigned)(uintptr_t)seed;
  static const uint8_t commands[] = {0x40, 0xe8, 0x20, 0xd0, 0x60, 0x90, 0x98, 0x70, 0x50, 0xff, 0x01, 0x00};
  for (int i = 0; i < 4000; i++) {
    r = r * 1103515245 + 12345;
    uint64_t at = (r >> 8) % 64 * 4 + (r >> 14) % 4 * BLOCK;
    uint32_t value = both(commands[(r >> 4) % sizeof commands]);
    uint8_t data[8] = {0};
    memcpy(data, &value, 4);
    core.io(core.opaque, at, data, 4, r & 1 << 20 ? 1 : 0);
  }
  return NULL;
}
static void at_once(void) {
  struct flash *f = start(0xff, SIZE, 1);
  pthread_t thread[4];
  for (uintptr_t i = 0; i < 4; i++) CHECK(!pthread_create(&thread[i], NULL, chaos, (void *)(i + 1)));
  for (unsigned i = 0; i < 4; i++) pthread_join(thread[i], NULL);
  flash_reset(f);
  CHECK(core.slot);
  stop(f);
}

int main(void) {
  fake_api.bus_add = bus_add, fake_api.bus_del = bus_del, fake_api.mem_slot = mem_slot, fake_api.log = fake_log;
  reading();
  programming();
  wrong_sequences();
  erasing();
  locking();
  code();
  wide();
  nothing_left_behind();
  slow_without_a_slot();
  at_once();
  puts("ok");
  return 0;
}
