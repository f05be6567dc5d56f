/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that writes anything anywhere, at any time, against a device that pops, keeps, gives back and puts back.
 * After each pop: every piece lies in guest memory, and the sums are right. At the end: the core has written
 * nothing in guest memory but what a device may write of a ring.
 */
#include "harness.h"
#include "input.h"
#include "queue.h"

enum { LOW = 0x8000, HIGH_AT = 0x10000, HIGH_SIZE = 0x4000, MAX_STEPS = 400, KEEP = 16, CAP = 96 };
/* Two regions that touch at LOW/2, a hole from LOW on, a region above it. */
static const struct {
  uint64_t gpa, size;
} ram[3] = {{0, LOW / 2}, {LOW / 2, LOW / 2}, {HIGH_AT, HIGH_SIZE}};

static vmm_vm *vm;
static struct vmm_queue q;
static uint8_t shadow[3][LOW]; /* what the driver wrote */
static unsigned interrupts, breaks;

static void on_interrupt(vmm_queue *queue) {
  MUST(queue == &q);
  interrupts++;
}

static void on_broken(vmm_queue *queue, const char *why) {
  MUST(queue == &q && why && *why);
  breaks++;
}

static void poke(uint64_t at, const uint8_t *bytes, uint64_t n) {
  for (uint64_t i = 0; i < n; i++)
    for (unsigned r = 0; r < 3; r++)
      if (at + i >= ram[r].gpa && at + i - ram[r].gpa < ram[r].size) {
        shadow[r][at + i - ram[r].gpa] = bytes[i];
        *(uint8_t *)vmm_mem(vm, at + i, 1) = bytes[i];
      }
}

static void poke_value(uint64_t at, unsigned size, uint64_t v) {
  uint8_t bytes[8];
  vmm_store(bytes, 8, v);
  poke(at, bytes, size);
}

static struct {
  uint64_t desc, driver, device;
  uint32_t size;
  bool packed;
} rings;

/* A word that hits something now and then. */
static uint64_t address(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 8) {
  case 0:
    return LOW / 2 - (kind >> 3);
  case 1:
    return LOW - (kind >> 3);
  case 2:
    return HIGH_AT + HIGH_SIZE - (kind >> 3);
  case 3:
    return UINT64_MAX - (kind >> 3);
  case 4:
    return take(in, 8);
  case 5:
    return rings.desc + 16u * (kind >> 3);
  default:
    return take(in, 2);
  }
}

static void descriptor(struct input *in, uint64_t at) {
  uint64_t addr = address(in);
  unsigned kind = (unsigned)take(in, 1);
  uint64_t len = kind & 0x80 ? take(in, 4) : kind & 0x40 ? 16u * (kind & 7) : take(in, 1);
  unsigned a = (unsigned)take(in, 1), b = (unsigned)take(in, 1);
  poke_value(at, 8, addr);
  poke_value(at + 8, 4, len);
  if (rings.packed) { /* id, flags */
    poke_value(at + 12, 2, a);
    poke_value(at + 14, 2, (b & 7) | (b & 8 ? 1u << 7 : 0) | (b & 16 ? 1u << 15 : 0));
  } else { /* flags, next */
    poke_value(at + 12, 2, a & 0xf);
    poke_value(at + 14, 2, b & 0x80 ? b << 8 : b & 31);
  }
}

static void driver(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 8) {
  case 0:
  case 1:
    descriptor(in, rings.desc + 16u * (take(in, 1) % (rings.size + 1)));
    break;
  case 2:
    descriptor(in, 0x3000 + 16u * (kind >> 3)); /* of an indirect table */
    break;
  case 3: /* one more, as a driver does it */
    if (rings.packed) {
      uint64_t at = rings.desc + 16u * q.next_avail + 14;
      uint64_t flags = vmm_load(vmm_mem(vm, at, 2), 2) & ~(1u << 7 | 1u << 15);
      poke_value(at, 2, flags | (q.avail_wrap ? 1u << 7 : 1u << 15));
    } else {
      uint16_t idx = (uint16_t)vmm_load(vmm_mem(vm, rings.driver + 2, 2), 2);
      poke_value(rings.driver + 4 + 2u * (idx % rings.size), 2, kind & 0x80 ? take(in, 2) : take(in, 1) % rings.size);
      poke_value(rings.driver + 2, 2, idx + 1u);
    }
    break;
  case 4:
    poke_value(rings.driver + take(in, 1), 2, take(in, 2));
    break;
  case 5:
    poke_value(rings.device + take(in, 1), 2, take(in, 2));
    break;
  case 6: { /* events */
    uint64_t at = rings.packed ? rings.driver : rings.driver + 4 + 2u * rings.size;
    poke_value(at, 2, take(in, 2));
    if (rings.packed) poke_value(at + 2, 2, take(in, 1));
    break;
  }
  default:
    poke_value(address(in), 8, take(in, 8));
  }
}

static bool in_ram(const void *p, uint64_t len) {
  for (unsigned r = 0; r < 3; r++) {
    const uint8_t *base = vmm_mem(vm, ram[r].gpa, ram[r].size), *at = p;
    if (at >= base && (uint64_t)(at - base) < ram[r].size) return len <= ram[r].size - (uint64_t)(at - base);
  }
  return false;
}

static struct vmm_chain kept[KEEP];
static unsigned n_kept;

static void pop(uint32_t cap, bool again) {
  struct iovec iov[CAP + 1];
  struct vmm_chain c;
  iov[cap].iov_len = 0x1234567;
  unsigned before = breaks;
  bool was_broken = q.why;
  int r = vmm_queue_pop(&q, &c, iov, cap);
  MUST(iov[cap].iov_len == 0x1234567);
  MUST(r == 1 || r == 0 || r == -EPROTO);
  MUST((r == -EPROTO) == (q.why != NULL));
  MUST(breaks == before + (q.why && !was_broken));
  if (r != 1) return;
  uint64_t out = 0, in = 0;
  MUST(c.n_out + c.n_in <= cap);
  for (uint32_t i = 0; i < c.n_out + c.n_in; i++) {
    MUST(iov[i].iov_len && in_ram(iov[i].iov_base, iov[i].iov_len));
    *(i < c.n_out ? &out : &in) += iov[i].iov_len;
  }
  MUST(out == c.out_len && in == c.in_len && out + in <= UINT32_MAX);
  MUST(c.slots >= 1 && c.slots <= rings.size);
  if (!rings.packed) MUST(c.id < rings.size);
  if (again) { /* put back: the same comes again, if the driver leaves it */
    struct vmm_chain same;
    vmm_queue_unpop(&q, &c);
    MUST(vmm_queue_pop(&q, &same, iov, cap) == 1);
    MUST(same.id == c.id && same.slots == c.slots && same.n_out == c.n_out && same.n_in == c.n_in);
  }
  if (n_kept == KEEP) {
    vmm_queue_push(&q, &c, iov, (uint32_t)in);
    return;
  }
  kept[n_kept++] = c;
}

static void device(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  switch (kind % 8) {
  case 0:
  case 1:
  case 2:
    pop(CAP, kind & 0x80);
    break;
  case 3:
    pop(1 + (kind >> 3), false);
    break;
  case 4:
    if (n_kept) {
      unsigned i = (kind >> 3) % n_kept;
      vmm_queue_push(&q, &kept[i], NULL, kind & 0x80 ? 0 : (uint32_t)kept[i].in_len);
      kept[i] = kept[--n_kept];
    }
    break;
  case 5: {
    unsigned before = interrupts;
    int r = vmm_queue_flush(&q);
    MUST(interrupts == before + (unsigned)r);
    break;
  }
  case 6:
    if (vmm_queue_wait(&q)) MUST(!q.why);
    break;
  default:
    vmm_queue_quiet(&q);
  }
}

static bool start(struct input *in) {
  unsigned kind = (unsigned)take(in, 1);
  static const uint32_t sizes[] = {1, 2, 4, 8, 16, 64, 3, 5};
  rings.packed = kind & 1;
  rings.size = sizes[kind >> 1 & 7];
  uint64_t features = (rings.packed ? 1ull << VMM_F_PACKED : 0) | (kind & 0x10 ? 1ull << VMM_F_EVENT_IDX : 0) |
                      (kind & 0x20 ? 1ull << VMM_F_INDIRECT : 0);
  /* mostly apart from each other; else where the input says, and then perhaps nowhere or over each other */
  rings.desc = kind & 0x80 ? address(in) & ~15ull : 0x1000;
  rings.driver = kind & 0x80 ? address(in) & ~3ull : 0x2000;
  rings.device = kind & 0x80 ? address(in) & ~3ull : 0x5000;
  n_kept = 0;
  return !vmm_queue_start(&q, vm, rings.size, features, rings.desc, rings.driver, rings.device);
}

/* May a device write this byte of guest memory? */
static bool may_write(uint64_t gpa) {
  uint64_t table = rings.packed ? rings.desc : 0, len = rings.packed ? 16ull * rings.size : 0;
  uint64_t area = rings.packed ? 4 : 6 + 8ull * rings.size;
  return (len && gpa - table < len) || gpa - rings.device < area;
}

static void check_untouched(void) {
  for (unsigned r = 0; r < 3; r++) {
    const uint8_t *now = vmm_mem(vm, ram[r].gpa, ram[r].size);
    for (uint64_t i = 0; i < ram[r].size; i += 8) {
      if (!memcmp(now + i, shadow[r] + i, 8)) continue;
      for (uint64_t k = i; k < i + 8; k++) MUST(now[k] == shadow[r][k] || may_write(ram[r].gpa + k));
    }
    memcpy(shadow[r], now, ram[r].size);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  vm = fake_vm();
  vmm_set_log_level(vm, 0);
  for (unsigned r = 0; r < 3; r++) MUST(!vmm_mem_add(vm, ram[r].gpa, ram[r].size, 0, 0));
  memset(shadow, 0, sizeof shadow);
  memset(&q, 0, sizeof q);
  q.interrupt = on_interrupt;
  q.broken = on_broken;
  struct input in = {data, size};
  bool up = start(&in);
  for (unsigned steps = 0; in.n && steps < MAX_STEPS; steps++) {
    unsigned what = (unsigned)take(&in, 1);
    if (what == 255) {
      check_untouched();
      up = start(&in);
    } else if (!up) {
      MUST(!vmm_queue_size(&q));
      pop(CAP, false);
      vmm_queue_flush(&q);
      MUST(!vmm_queue_wait(&q));
      check_untouched();
      up = start(&in);
    } else if (what % 8 < 5) {
      driver(&in);
    } else {
      device(&in);
    }
  }
  if (up) check_untouched();
  fake_vm_end(vm);
  return 0;
}
