/* SPDX-License-Identifier: Apache-2.0 */
/* The bus against the plainest model there is: a list that is searched from the start. */
#include "harness.h"
#include "input.h"

enum { MAX = 40 };

static struct {
  uint64_t base, len;
  bool used;
} model[2][MAX];

static struct {
  unsigned calls;
  uintptr_t who;
  uint64_t offset;
  uint32_t size;
  int is_write;
} last;

static void handler(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  last.calls++;
  last.who = (uintptr_t)opaque;
  last.offset = offset, last.size = size, last.is_write = is_write;
  memset(data, 0x5a, size); /* all of it is ours */
}

/* Addresses of which many collide: near a few bases, and now and then anything. */
static uint64_t address(struct input *in) {
  static const uint64_t base[] = {0, 0x1000, 0xfffff000, UINT64_MAX - 0x1f, 1ull << 63, 0xcf8, 0x100000000, 0x20};
  unsigned kind = (unsigned)take(in, 1);
  if (kind >= 0xf0) return take(in, 8);
  return base[kind % 8] + (kind & 0x80 ? take(in, 2) : take(in, 1) % 0x40);
}

static uint64_t length(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  return kind >= 0xf8 ? take(in, 8) : kind % 0x20;
}

static bool meets(int s, unsigned but, uint64_t base, uint64_t len) {
  for (unsigned i = 0; i < MAX; i++)
    if (model[s][i].used && i != but && base <= model[s][i].base + (model[s][i].len - 1) &&
        model[s][i].base <= base + (len - 1))
      return true;
  return false;
}

static unsigned starts(int s, uint64_t base) {
  unsigned i = 0;
  while (i < MAX && (!model[s][i].used || model[s][i].base != base)) i++;
  return i;
}

static bool bad(uint64_t base, uint64_t len) {
  return !len || base + (len - 1) < base;
}

static void *name(int s, unsigned i) {
  return (void *)((uintptr_t)s * MAX + i + 1);
}

static void add(vmm_vm *vm, struct input *in, int s) {
  uint64_t base = address(in), len = length(in);
  unsigned room = 0;
  while (room < MAX && model[s][room].used) room++;
  if (room == MAX) return;
  int r = vmm_bus_add(vm, s, base, len, handler, name(s, room));
  if (base == UINT64_MAX || bad(base, len)) {
    MUST(r == -EINVAL);
  } else if (meets(s, MAX, base, len)) {
    MUST(r == -EEXIST);
  } else {
    MUST(!r);
    model[s][room].base = base, model[s][room].len = len, model[s][room].used = true;
  }
}

/* A base that is there, mostly. */
static uint64_t some_base(struct input *in, int s) {
  unsigned i = (unsigned)take(in, 1);
  return i < 0xe0 && model[s][i % MAX].used ? model[s][i % MAX].base : address(in);
}

static void del(vmm_vm *vm, struct input *in, int s) {
  uint64_t base = some_base(in, s);
  if (base == UINT64_MAX) return;
  unsigned i = starts(s, base);
  int r = vmm_bus_del(vm, s, base);
  MUST(r == (i < MAX ? 0 : -ENOENT));
  if (i < MAX) model[s][i].used = false;
}

static void move(vmm_vm *vm, struct input *in, int s) {
  uint64_t from = some_base(in, s), to = address(in);
  unsigned i = starts(s, from);
  if (from == UINT64_MAX || to == UINT64_MAX) return;
  uint64_t len = i < MAX ? model[s][i].len : length(in);
  int r = vmm_bus_move(vm, s, from, to, len, handler, i < MAX ? name(s, i) : (void *)(uintptr_t)9999);
  if (bad(to, len)) {
    MUST(r == -EINVAL);
  } else if (i == MAX) {
    MUST(r == -ENOENT);
  } else if (meets(s, i, to, len)) {
    MUST(r == -EEXIST);
  } else {
    MUST(!r);
    model[s][i].base = to;
  }
}

static void access_bus(vmm_vm *vm, struct input *in, int s) {
  uint64_t addr = address(in);
  unsigned kind = (unsigned)take(in, 1);
  if (kind & 0x40 && model[s][kind % MAX].used) /* at one of its ends */
    addr = model[s][kind % MAX].base + (kind & 0x80 ? model[s][kind % MAX].len - 1 : 0) - (kind >> 2 & 3);
  uint32_t size = 1u << (kind & 3);
  int is_write = kind >> 5 & 1;
  uint8_t data[8];
  memset(data, 0x11, sizeof data);
  unsigned calls = last.calls;
  vmm_bus_access(vm, s, addr, data, size, is_write);
  unsigned hit = MAX;
  for (unsigned i = 0; i < MAX; i++)
    if (model[s][i].used && addr >= model[s][i].base && addr - model[s][i].base < model[s][i].len &&
        model[s][i].len - (addr - model[s][i].base) >= size)
      hit = i;
  uint8_t expect = hit < MAX ? 0x5a : is_write ? 0x11 : 0xff;
  for (uint32_t i = 0; i < 8; i++) MUST(data[i] == (i < size ? expect : 0x11));
  if (hit == MAX) {
    MUST(last.calls == calls);
    return;
  }
  MUST(last.calls == calls + 1 && last.who == (uintptr_t)name(s, hit));
  MUST(last.offset == addr - model[s][hit].base && last.size == size && last.is_write == is_write);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static vmm_vm *vm;
  if (!vm) vm = fake_vm();
  struct input in = {data, size};
  while (in.n) {
    unsigned op = (unsigned)take(&in, 1);
    int s = op >> 7;
    switch (op % 8) {
    case 0:
    case 1:
      add(vm, &in, s);
      break;
    case 2:
      del(vm, &in, s);
      break;
    case 3:
      move(vm, &in, s);
      break;
    default:
      access_bus(vm, &in, s);
    }
  }
  for (int s = 0; s < 2; s++) {
    for (unsigned i = 0; i < MAX; i++) {
      if (model[s][i].used) MUST(!vmm_bus_del(vm, s, model[s][i].base));
      model[s][i].used = false;
    }
    MUST(!atomic_load(&vm->bus[s].table)->n);
    MUST(!vm->bus[s].retired || !vm->bus[s].retired->next); /* no vCPU runs: old tables are freed */
  }
  return 0;
}
