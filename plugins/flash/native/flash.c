/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "flash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmmcore.h"

/*
 * While the flash shows its array, the guest reads and executes the file's pages in a read-only memory slot, and only its
 * writes come here. In every other mode the slot is taken away, and reads come here too.
 *
 * What is programmed is in the page cache at once (the mapping is shared), so a VMM that dies loses nothing. A thread
 * brings it to the disk when the guest is done with a burst of commands, that is, goes back to the array: a vCPU never
 * waits for the disk.
 */
struct flash {
  const struct vmm_api *api;
  vmm_vm *vm;
  uint64_t address;
  size_t mapped; /* bytes of the mapping at nor.data, whole pages */
  int fd;
  bool on_bus, threaded;
  pthread_t thread;

  pthread_mutex_t lock; /* guards all below */
  pthread_cond_t wake;
  struct nor nor;
  int slot;
  bool dirty, sync, end, complained;
  uint64_t syncs;
};

static void changed(void *opaque, uint64_t offset, uint64_t len) {
  struct flash *f = opaque;
  (void)offset, (void)len;
  f->dirty = true;
}

/* Lock held. The memory slot is there while the array is shown. */
static void show(struct flash *f) {
  bool array = f->nor.s.mode == NOR_ARRAY;
  if (array == (f->slot >= 0)) return;
  int error = f->api->mem_slot(f->vm, &f->slot, f->address, array ? f->mapped : 0, f->nor.data, VMM_SLOT_READONLY);
  if (error < 0 && !f->complained) {
    f->complained = true;
    f->api->log(f->vm, 4, "flash at 0x%llx: no memory slot (%s): it will be slow, and code cannot run from it",
                (unsigned long long)f->address, strerror(-error));
  }
}

/* Lock held: what is left of a burst of commands is to be kept. */
static void settle(struct flash *f) {
  if (!f->dirty || !f->threaded) return;
  f->dirty = false;
  f->sync = true;
  pthread_cond_signal(&f->wake);
}

/* vCPU threads. */
static void on_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct flash *f = opaque;
  pthread_mutex_lock(&f->lock);
  if (is_write) {
    nor_write(&f->nor, offset, data, size);
    if (f->nor.s.mode == NOR_ARRAY) settle(f);
    show(f);
  } else {
    nor_read(&f->nor, offset, data, size);
  }
  pthread_mutex_unlock(&f->lock);
}

static void *keeper(void *opaque) {
  struct flash *f = opaque;
  pthread_mutex_lock(&f->lock);
  while (f->sync || !f->end) {
    if (!f->sync) {
      pthread_cond_wait(&f->wake, &f->lock);
      continue;
    }
    f->sync = false;
    pthread_mutex_unlock(&f->lock);
    bool failed = msync(f->nor.data, f->mapped, MS_SYNC) != 0;
    int error = errno;
    pthread_mutex_lock(&f->lock);
    f->syncs++;
    if (failed && !f->complained) {
      f->complained = true;
      f->api->log(f->vm, 3, "flash at 0x%llx: its variables cannot be written to the disk: %s",
                  (unsigned long long)f->address, strerror(error));
    }
  }
  pthread_mutex_unlock(&f->lock);
  return NULL;
}

/* --- life cycle -------------------------------------------------------------- */

static int set_up(struct flash *f, uint64_t size, uint64_t backed, bool writable) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  if (size < NOR_MIN || size > NOR_MAX || size & (size - 1) || !backed || backed > size || (writable && backed != size) ||
      f->address % page || f->address + size < f->address)
    return -EINVAL;
  f->mapped = (backed + page - 1) & ~(page - 1);
  void *data = mmap(NULL, f->mapped, writable ? PROT_READ | PROT_WRITE : PROT_READ, writable ? MAP_SHARED : MAP_PRIVATE,
                    f->fd, 0);
  if (data == MAP_FAILED) return -errno;
  nor_init(&f->nor, data, backed, size, writable);
  f->nor.changed = changed;
  f->nor.opaque = f;
  if (writable) {
    int error = pthread_create(&f->thread, NULL, keeper, f);
    if (error) return -error;
    f->threaded = true;
    pthread_setname_np(f->thread, "flash");
  }
  int status = f->api->bus_add(f->vm, VMM_MMIO, f->address, size, on_io, f);
  f->on_bus = status >= 0;
  if (status < 0) return status;
  pthread_mutex_lock(&f->lock);
  show(f);
  pthread_mutex_unlock(&f->lock);
  return f->slot < 0 ? -ENOSPC : 0;
}

struct flash *flash_new(const void *api, void *vm, uint64_t address, uint64_t size, int fd, uint64_t backed, int writable,
                        int *error) {
  struct flash *f = NULL;
  *error = vmm_api_check(api, 2) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) f = calloc(1, sizeof *f);
  if (!f) {
    close(fd);
    return NULL;
  }
  f->api = api;
  f->vm = vm;
  f->address = address;
  f->fd = fd;
  f->slot = -1;
  pthread_mutex_init(&f->lock, NULL);
  pthread_cond_init(&f->wake, NULL);
  *error = set_up(f, size, backed, writable);
  if (!*error) return f;
  flash_free(f);
  return NULL;
}

void flash_free(struct flash *f) {
  if (!f) return;
  if (f->on_bus) f->api->bus_del(f->vm, VMM_MMIO, f->address);
  pthread_mutex_lock(&f->lock);
  settle(f);
  f->end = true;
  pthread_cond_signal(&f->wake);
  if (f->slot >= 0) f->api->mem_slot(f->vm, &f->slot, f->address, 0, NULL, 0);
  pthread_mutex_unlock(&f->lock);
  if (f->threaded) pthread_join(f->thread, NULL);
  if (f->nor.data) munmap(f->nor.data, f->mapped);
  close(f->fd);
  pthread_cond_destroy(&f->wake);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

void flash_reset(struct flash *f) {
  pthread_mutex_lock(&f->lock);
  nor_reset(&f->nor);
  settle(f);
  show(f);
  pthread_mutex_unlock(&f->lock);
}

void flash_save(struct flash *f, struct nor_state *state) {
  pthread_mutex_lock(&f->lock);
  *state = f->nor.s;
  pthread_mutex_unlock(&f->lock);
}

int flash_restore(struct flash *f, const struct nor_state *state) {
  pthread_mutex_lock(&f->lock);
  int status = nor_restore(&f->nor, state);
  show(f);
  pthread_mutex_unlock(&f->lock);
  return status;
}

void flash_read_counters(struct flash *f, struct flash_counters *counters) {
  pthread_mutex_lock(&f->lock);
  *counters = (struct flash_counters){f->nor.programs, f->nor.erases, f->syncs};
  pthread_mutex_unlock(&f->lock);
}
