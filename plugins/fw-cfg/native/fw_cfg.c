/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fw_cfg.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmmcore.h"

enum { PAGE = 4096 };
/* Registers on Arm; their numbers are big endian. Those of a PC: selector 0 (little endian), data 1, DMA 4. */
enum { DATA = 0, SELECTOR = 8, DMA = 16, PC_SELECTOR = 0, PC_DATA = 1, PC_DMA = 4 };
/* A DMA request's control word, above the key of DMA_SELECT. */
enum { DMA_ERROR = 1 << 0, DMA_READ = 1 << 1, DMA_SKIP = 1 << 2, DMA_SELECT = 1 << 3, DMA_WRITE = 1 << 4 };
enum { ID_TRADITIONAL = 1 << 0, ID_DMA = 1 << 1 };
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */

struct item {
  int key, fd;
  uint32_t size;
  uint8_t *data; /* NULL: in fd */
  char name[FW_CFG_NAME];
};

struct fw_cfg {
  const struct vmm_api *api;
  vmm_vm *vm;
  int space;
  uint64_t address;
  bool mapped;
  struct item *items;
  unsigned count, files;

  pthread_mutex_t lock; /* guards all below */
  struct fw_cfg_state s;
  struct fw_cfg_counters counters;
};

static const struct item *find(const struct fw_cfg *f, int key) {
  for (unsigned i = 0; i < f->count; i++)
    if (f->items[i].key == key) return &f->items[i];
  return NULL;
}

/* --- what the guest does; lock held ------------------------------------------- */

static void choose(struct fw_cfg *f, uint16_t key) {
  f->s.key = key;
  f->s.offset = 0;
  f->counters.selects++;
}

/* The next `len` bytes of the chosen item; zeros behind its end, and for an item that is not there. */
static void take(struct fw_cfg *f, uint8_t *to, uint32_t len) {
  const struct item *item = find(f, f->s.key);
  uint32_t left = item && f->s.offset < item->size ? item->size - f->s.offset : 0;
  uint32_t n = len < left ? len : left, done = 0;
  if (n && item->data) {
    memcpy(to, item->data + f->s.offset, n);
    done = n;
  }
  while (done < n) { /* a file that shrank reads as zeros */
    ssize_t got = pread(item->fd, to + done, n - done, (off_t)f->s.offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += (uint32_t)got;
  }
  memset(to + done, 0, len - done);
  f->s.offset += n;
  f->counters.read_bytes += n;
}

/* Guest memory up to the end of the page at most: [gpa, gpa + *len). NULL: no RAM. */
static uint8_t *piece(struct fw_cfg *f, uint64_t gpa, uint32_t *len) {
  uint32_t room = PAGE - (uint32_t)(gpa % PAGE);
  if (*len > room) *len = room;
  return f->api->mem(f->vm, gpa, *len);
}

static bool fill(struct fw_cfg *f, uint64_t gpa, uint32_t left) {
  while (left) {
    uint32_t n = left;
    uint8_t *to = piece(f, gpa, &n);
    if (!to) return false;
    take(f, to, n);
    f->api->mem_dirty(f->vm, gpa, n);
    gpa += n, left -= n; /* a wrapped address is no RAM */
  }
  return true;
}

static void skip(struct fw_cfg *f, uint32_t len) {
  const struct item *item = find(f, f->s.key);
  uint32_t left = item && f->s.offset < item->size ? item->size - f->s.offset : 0;
  f->s.offset += len < left ? len : left;
}

/* The request may lie anywhere, over the end of a page too. */
static bool copy(struct fw_cfg *f, uint64_t gpa, uint8_t *bytes, uint32_t size, bool to_guest) {
  while (size) {
    uint32_t n = size;
    uint8_t *p = piece(f, gpa, &n);
    if (!p) return false;
    if (to_guest) {
      memcpy(p, bytes, n);
      f->api->mem_dirty(f->vm, gpa, n);
    } else {
      memcpy(bytes, p, n);
    }
    gpa += n, bytes += n, size -= n;
  }
  return true;
}

static void dma(struct fw_cfg *f, uint64_t gpa) {
  uint8_t request[16];
  uint32_t control, length;
  uint64_t address;
  if (!copy(f, gpa, request, sizeof request, false)) { /* nobody can be told */
    f->counters.dma_errors++;
    return;
  }
  memcpy(&control, request, 4);
  memcpy(&length, request + 4, 4);
  memcpy(&address, request + 8, 8);
  control = be32toh(control), length = be32toh(length), address = be64toh(address);

  bool fine = true;
  if (control & DMA_SELECT) choose(f, (uint16_t)(control >> 16));
  if (control & DMA_READ) fine = fill(f, address, length);
  else if (control & DMA_WRITE) fine = !length; /* no item is writable */
  else if (control & DMA_SKIP) skip(f, length);
  if (!fine) f->counters.dma_errors++;
  control = htobe32(fine ? 0 : DMA_ERROR);
  copy(f, gpa, (uint8_t *)&control, sizeof control, true);
}

/* The register of the DMA address, big endian; writing its lower half starts the request. */
static void dma_register(struct fw_cfg *f, uint32_t offset, void *data, uint32_t size, int is_write) {
  if (!is_write) {
    uint64_t signature = htobe64(DMA_SIGNATURE);
    if (offset + size <= 8) memcpy(data, (uint8_t *)&signature + offset, size);
    return;
  }
  uint64_t gpa;
  uint32_t half;
  if (size == 8 && !offset) {
    memcpy(&gpa, data, 8);
    gpa = be64toh(gpa);
  } else if (size == 4 && (offset == 0 || offset == 4)) {
    memcpy(&half, data, 4);
    half = be32toh(half);
    if (!offset) {
      f->s.dma_high = half;
      return;
    }
    gpa = (uint64_t)f->s.dma_high << 32 | half;
  } else {
    return;
  }
  f->s.dma_high = 0;
  dma(f, gpa);
}

/* vCPU threads. */
static void on_mmio(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct fw_cfg *f = opaque;
  pthread_mutex_lock(&f->lock);
  if (offset >= DMA) {
    dma_register(f, (uint32_t)offset - DMA, data, size, is_write);
  } else if (offset == SELECTOR && is_write && size == 2) {
    uint16_t key;
    memcpy(&key, data, 2);
    choose(f, be16toh(key));
  } else if (offset < SELECTOR && !is_write && size <= SELECTOR - offset) {
    take(f, data, size); /* the bytes of an item in their order, whatever the width */
  }
  pthread_mutex_unlock(&f->lock);
}

static void on_pio(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct fw_cfg *f = opaque;
  pthread_mutex_lock(&f->lock);
  if (offset >= PC_DMA) dma_register(f, (uint32_t)offset - PC_DMA, data, size, is_write);
  else if (offset == PC_SELECTOR && is_write && size == 2) choose(f, (uint16_t)vmm_load(data, 2));
  else if (offset == PC_DATA && !is_write && size == 1) take(f, data, 1);
  pthread_mutex_unlock(&f->lock);
}

/* --- life cycle -------------------------------------------------------------- */

struct fw_cfg *fw_cfg_new(const void *api, void *vm, int *error) {
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  struct fw_cfg *f = *error == -ENOMEM ? calloc(1, sizeof *f) : NULL;
  if (!f) return NULL;
  f->api = api;
  f->vm = vm;
  pthread_mutex_init(&f->lock, NULL);
  const uint32_t id = htole32(ID_TRADITIONAL | ID_DMA);
  *error = fw_cfg_add(f, FW_CFG_SIGNATURE, NULL, "QEMU", -1, 4);
  if (!*error) *error = fw_cfg_add(f, FW_CFG_ID, NULL, &id, -1, sizeof id);
  if (!*error) return f;
  fw_cfg_free(f);
  return NULL;
}

int fw_cfg_add(struct fw_cfg *f, int key, const char *name, const void *data, int fd, uint32_t size) {
  if (f->mapped || key > 0xffff || (key < 0) != (name != NULL) || (!data && fd < 0)) return -EINVAL;
  if (key < 0) {
    if (!*name || strlen(name) >= FW_CFG_NAME) return -EINVAL;
    if (f->files == FW_CFG_FILES) return -ENOSPC;
    key = FW_CFG_FILE_FIRST + (int)f->files;
  }
  if (find(f, key)) return -EEXIST;
  for (unsigned i = 0; name && i < f->count; i++)
    if (!strcmp(f->items[i].name, name)) return -EEXIST;
  struct item *items = realloc(f->items, (f->count + 1) * sizeof *items);
  if (!items) return -ENOMEM;
  f->items = items;
  struct item item = {.key = key, .fd = fd, .size = size};
  if (name) strcpy(item.name, name);
  if (data) {
    item.data = malloc(size ? size : 1);
    if (!item.data) return -ENOMEM;
    memcpy(item.data, data, size);
  }
  items[f->count++] = item;
  f->files += name != NULL;
  return 0;
}

/* The list of files: their number, then for each its size, key and name. */
static int add_directory(struct fw_cfg *f) {
  enum { ENTRY = 8 + FW_CFG_NAME };
  uint32_t size = 4 + f->files * ENTRY, count = htobe32(f->files);
  uint8_t *directory = calloc(1, size), *entry = directory + 4;
  if (!directory) return -ENOMEM;
  memcpy(directory, &count, 4);
  for (unsigned i = 0; i < f->count; i++) {
    const struct item *item = &f->items[i];
    if (!item->name[0]) continue;
    uint32_t bytes = htobe32(item->size);
    uint16_t key = htobe16((uint16_t)item->key);
    memcpy(entry, &bytes, 4);
    memcpy(entry + 4, &key, 2);
    memcpy(entry + 8, item->name, FW_CFG_NAME);
    entry += ENTRY;
  }
  int error = fw_cfg_add(f, FW_CFG_FILE_DIR, NULL, directory, -1, size);
  free(directory);
  return error;
}

int fw_cfg_start(struct fw_cfg *f, int space, uint64_t address) {
  int error = add_directory(f);
  if (error) return error;
  f->space = space;
  f->address = address;
  error = f->api->bus_add(f->vm, space, address, space == VMM_PIO ? FW_CFG_PIO_SIZE : FW_CFG_MMIO_SIZE,
                          space == VMM_PIO ? on_pio : on_mmio, f);
  f->mapped = error >= 0;
  return f->mapped ? 0 : error;
}

void fw_cfg_free(struct fw_cfg *f) {
  if (!f) return;
  if (f->mapped) f->api->bus_del(f->vm, f->space, f->address);
  for (unsigned i = 0; i < f->count; i++) free(f->items[i].data);
  free(f->items);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

void fw_cfg_reset(struct fw_cfg *f) {
  fw_cfg_restore(f, &(struct fw_cfg_state){0});
}

void fw_cfg_save(struct fw_cfg *f, struct fw_cfg_state *state) {
  pthread_mutex_lock(&f->lock);
  *state = f->s;
  pthread_mutex_unlock(&f->lock);
}

void fw_cfg_restore(struct fw_cfg *f, const struct fw_cfg_state *state) {
  pthread_mutex_lock(&f->lock);
  f->s = *state; /* any: take() compares them with the item */
  pthread_mutex_unlock(&f->lock);
}

void fw_cfg_read_counters(struct fw_cfg *f, struct fw_cfg_counters *counters) {
  pthread_mutex_lock(&f->lock);
  *counters = f->counters;
  pthread_mutex_unlock(&f->lock);
}
