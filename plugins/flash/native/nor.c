/* SPDX-License-Identifier: Apache-2.0 */
#include "nor.h"

#include <string.h>

/* Commands, first cycle. */
enum {
  PROGRAM_ALT = 0x10,
  ERASE = 0x20,
  PROGRAM = 0x40,
  CLEAR_STATUS = 0x50,
  LOCK = 0x60,
  READ_STATUS = 0x70,
  READ_ID = 0x90,
  QUERY = 0x98,
  SUSPEND = 0xb0,
  PROTECTION = 0xc0,
  CONFIRM = 0xd0, /* on its own: resume */
  BUFFERED = 0xe8,
  READ_ARRAY = 0xff,
};
/* Second cycle of LOCK. */
enum { LOCK_BLOCK = 0x01, SET_CONFIGURATION = 0x03, LOCK_DOWN = 0x2f };
/* Status register. */
enum { SR_LOCKED = 1 << 1, SR_PROGRAM = 1 << 4, SR_ERASE = 1 << 5, SR_READY = 1 << 7, SR_SEQUENCE = SR_PROGRAM | SR_ERASE };
/* Identifier codes: Intel, 28F256J3, a chip of the same size and blocks as the largest of ours. */
enum { ID_MAKER = 0x89, ID_DEVICE = 0x1d };

void nor_init(struct nor *n, uint8_t *data, uint64_t backed, uint64_t size, bool writable) {
  memset(n, 0, sizeof *n);
  n->data = data;
  n->backed = backed;
  n->size = size;
  n->writable = writable;
  nor_reset(n);
}

void nor_reset(struct nor *n) {
  memset(&n->s, 0, sizeof n->s);
  n->s.status = SR_READY;
}

/* --- reads ------------------------------------------------------------------- */

/* What one chip of `size` bytes answers to a query at `word` (JESD68.01 §2; primary table: P30 datasheet appendix B). */
static uint16_t query(const struct nor *n, uint32_t word) {
  uint64_t chip = n->size / 2;
  uint32_t blocks = (uint32_t)(n->size / NOR_BLOCK) - 1, block = NOR_BLOCK / 2 / 256;
  switch (word) {
    case 0x10: return 'Q';
    case 0x11: return 'R';
    case 0x12: return 'Y';
    case 0x13: return 0x01; /* command set: Intel/Sharp extended */
    case 0x15: return 0x31; /* where its table is */
    case 0x1b: return 0x27; /* Vcc 2.7 V … */
    case 0x1c: return 0x36; /* … 3.6 V */
    case 0x1f: return 7;    /* typical times: 2^n µs for a word, */
    case 0x20: return 7;    /* 2^n µs for a buffer, */
    case 0x21: return 10;   /* 2^n ms for a block */
    case 0x23: return 4;    /* longest times: 2^n times the typical ones */
    case 0x24: return 4;
    case 0x25: return 4;
    case 0x27: return (uint16_t)__builtin_ctzll(chip);
    case 0x28: return 1; /* 16 bits */
    case 0x2a: return (uint16_t)__builtin_ctz(NOR_BUFFER / 2);
    case 0x2c: return 1; /* one region of equal blocks */
    case 0x2d: return blocks & 0xff;
    case 0x2e: return (uint16_t)(blocks >> 8);
    case 0x2f: return block & 0xff;
    case 0x30: return (uint16_t)(block >> 8);
    case 0x31: return 'P';
    case 0x32: return 'R';
    case 0x33: return 'I';
    case 0x34: return '1';
    case 0x35: return '0';
    case 0x36: return 1 << 5; /* blocks can be locked one by one, at once */
    case 0x3b: return 3;      /* a block's state has bits for locked and locked down */
    case 0x3d: return 0x33;   /* Vcc 3.3 V */
    default: return 0;
  }
}

/* What one chip puts on the bus in the current mode. */
static uint16_t word_at(const struct nor *n, uint64_t offset) {
  uint32_t word = (uint32_t)(offset % NOR_BLOCK / 4);
  switch (n->s.mode) {
    case NOR_STATUS: return n->s.status;
    case NOR_QUERY: return query(n, (uint32_t)(offset / 4));
    default: /* NOR_ID */
      if (word == 2) return n->writable ? n->s.lock[offset / NOR_BLOCK] : 1;
      return word == 0 ? ID_MAKER : word == 1 ? ID_DEVICE : 0;
  }
}

void nor_read(struct nor *n, uint64_t offset, uint8_t *data, uint32_t size) {
  for (uint32_t i = 0; i < size; i++) {
    uint64_t at = offset + i;
    if (n->s.mode == NOR_ARRAY) data[i] = at < n->backed ? n->data[at] : 0xff;
    else data[i] = (uint8_t)(word_at(n, at) >> (at & 1 ? 8 : 0));
  }
}

/* --- writes ------------------------------------------------------------------ */

/* Whether the block may be changed; if not, the status says so, with `failed`. */
static bool open_block(struct nor *n, uint64_t offset, uint64_t len, uint8_t failed) {
  if (n->writable && !n->s.lock[offset / NOR_BLOCK] && offset + len <= n->backed) return true;
  n->s.status |= failed | SR_LOCKED;
  return false;
}

/* Programming only clears bits. */
static void program(struct nor *n, uint64_t offset, const uint8_t *data, uint32_t len) {
  if (offset / NOR_BLOCK != (offset + len - 1) / NOR_BLOCK) n->s.status |= SR_PROGRAM;
  else if (open_block(n, offset, len, SR_PROGRAM)) {
    for (uint32_t i = 0; i < len; i++) n->data[offset + i] &= data[i];
    n->programs++;
    if (n->changed) n->changed(n->opaque, offset, len);
  }
}

static void erase(struct nor *n, uint64_t offset) {
  uint64_t block = offset / NOR_BLOCK * NOR_BLOCK;
  if (!open_block(n, block, NOR_BLOCK, SR_ERASE)) return;
  memset(n->data + block, 0xff, NOR_BLOCK);
  n->erases++;
  if (n->changed) n->changed(n->opaque, block, NOR_BLOCK);
}

static void lock(struct nor *n, uint64_t offset, uint8_t command) {
  uint8_t *block = &n->s.lock[offset / NOR_BLOCK];
  switch (command) {
    case LOCK_BLOCK: *block |= 1; break;
    case LOCK_DOWN: *block = 3; break;
    case CONFIRM:
      if (!(*block & 2)) *block = 0;
      break;
    case SET_CONFIGURATION: break; /* of synchronous bursts, which no bus of ours has */
    default: n->s.status |= SR_SEQUENCE;
  }
}

/* A word for the write buffer. The first one says which page it is for. */
static void fill(struct nor *n, uint64_t offset, const uint8_t *data, uint32_t size) {
  struct nor_state *s = &n->s;
  if (!s->paged) {
    s->paged = 1;
    s->at = (uint32_t)(offset & ~(uint64_t)(NOR_BUFFER - 1));
  }
  if (offset < s->at || offset + size > (uint64_t)s->at + NOR_BUFFER) { /* that is another page */
    s->status |= SR_SEQUENCE;
    s->command = 0;
    return;
  }
  memcpy(s->buffer + (offset - s->at), data, size);
  s->left--;
}

static void flush(struct nor *n) {
  const struct nor_state *s = &n->s;
  unsigned first = 0, last = NOR_BUFFER;
  while (first < last && s->buffer[first] == 0xff) first++; /* ones change nothing */
  while (last > first && s->buffer[last - 1] == 0xff) last--;
  if (first < last) program(n, s->at + first, s->buffer + first, last - first);
  else open_block(n, s->at, NOR_BUFFER, SR_PROGRAM);
}

/* A further cycle of a command. True: it was the last. */
static bool go_on(struct nor *n, uint64_t offset, const uint8_t *data, uint32_t size) {
  struct nor_state *s = &n->s;
  switch (s->command) {
    case PROGRAM: program(n, offset, data, size); return true;
    case ERASE:
      if (data[0] == CONFIRM) erase(n, offset);
      else s->status |= SR_SEQUENCE;
      return true;
    case LOCK: lock(n, offset, data[0]); return true;
    case BUFFERED: /* the number of words, less one */
      if (data[0] >= NOR_BUFFER / 4) {
        s->status |= SR_SEQUENCE;
        return true;
      }
      s->left = data[0] + 1;
      s->paged = 0;
      memset(s->buffer, 0xff, sizeof s->buffer);
      s->command = BUFFERED + 1;
      return false;
    case BUFFERED + 1:
      if (s->left) {
        fill(n, offset, data, size);
        return !s->command;
      }
      if (data[0] == CONFIRM) flush(n);
      else s->status |= SR_SEQUENCE;
      return true;
    default: /* PROTECTION: there are no protection registers */
      s->status |= SR_PROGRAM | SR_LOCKED;
      return true;
  }
}

static void begin(struct nor *n, uint8_t command) {
  struct nor_state *s = &n->s;
  switch (command) {
    case READ_STATUS: s->mode = NOR_STATUS; break;
    case READ_ID: s->mode = NOR_ID; break;
    case QUERY: s->mode = NOR_QUERY; break;
    case CLEAR_STATUS: s->status = SR_READY; break;
    case SUSPEND: /* nothing takes long enough to be suspended */
    case CONFIRM: s->mode = NOR_STATUS; break;
    case PROGRAM_ALT: command = PROGRAM; /* fall through */
    case PROGRAM:
    case ERASE:
    case LOCK:
    case PROTECTION:
    case BUFFERED:
      s->command = command;
      s->mode = NOR_STATUS;
      break;
    default: s->mode = NOR_ARRAY; /* READ_ARRAY, and what is no command: a probe for other chips */
  }
}

void nor_write(struct nor *n, uint64_t offset, const uint8_t *data, uint32_t size) {
  if (size == 8) { /* two cycles on a bus of 32 bits */
    nor_write(n, offset, data, 4);
    nor_write(n, offset + 4, data + 4, 4);
    return;
  }
  bool is_data = n->s.command == PROGRAM || (n->s.command == BUFFERED + 1 && n->s.left);
  if (!is_data && offset & 3) return; /* a command for the upper chip: the lower one gets it too */
  if (!n->s.command) begin(n, data[0]);
  else if (go_on(n, offset, data, size)) n->s.command = 0;
}

int nor_restore(struct nor *n, const struct nor_state *state) {
  static const uint8_t commands[] = {0, PROGRAM, ERASE, LOCK, PROTECTION, BUFFERED, BUFFERED + 1};
  if (state->mode > NOR_QUERY || !(state->status & SR_READY) || state->left > NOR_BUFFER / 4 || state->paged > 1 ||
      state->at % NOR_BUFFER || state->at >= n->size || !memchr(commands, state->command, sizeof commands))
    return -1;
  for (unsigned i = 0; i < NOR_MAX_BLOCKS; i++)
    if (state->lock[i] > 3 || state->lock[i] == 2) return -1;
  n->s = *state;
  return 0;
}
