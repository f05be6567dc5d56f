/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost.h"

#include <errno.h>
#include <linux/vhost.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "vmmcore.h"

static int done(int result) {
  return result < 0 ? -errno : 0;
}

int vhost_features(int fd, uint64_t *features) {
  return done(ioctl(fd, VHOST_GET_FEATURES, features));
}

int vhost_start(int fd, const void *api_, void *vm, uint64_t features, uint32_t regions, const uint64_t *memory) {
  const struct vmm_api *api = api_;
  if (ioctl(fd, VHOST_SET_OWNER) < 0 && errno != EBUSY) return -errno; /* EBUSY: it is ours already */
  if (ioctl(fd, VHOST_SET_FEATURES, &features) < 0) return -errno;
  struct vhost_memory *table = calloc(1, sizeof *table + regions * sizeof *table->regions);
  if (!table) return -ENOMEM;
  int err = 0;
  table->nregions = regions;
  for (uint32_t i = 0; i < regions; i++) {
    void *at = api->mem(vm, memory[2 * i], memory[2 * i + 1]);
    if (!at) err = -EFAULT;
    table->regions[i].guest_phys_addr = memory[2 * i];
    table->regions[i].memory_size = memory[2 * i + 1];
    table->regions[i].userspace_addr = (uintptr_t)at;
  }
  if (!err) err = done(ioctl(fd, VHOST_SET_MEM_TABLE, table));
  free(table);
  return err;
}

int vhost_queue(int fd, const void *api_, void *vm, const struct vhost_queue *q) {
  const struct vmm_api *api = api_;
  struct vhost_vring_state size = {q->index, q->size}, base = {q->index, q->base};
  struct vhost_vring_file kick = {q->index, q->kick_fd}, call = {q->index, q->call_fd};
  struct vhost_vring_addr addr = {.index = q->index};
  addr.desc_user_addr = (uintptr_t)api->mem(vm, q->desc, 16ull * q->size);
  addr.avail_user_addr = (uintptr_t)api->mem(vm, q->driver, 6 + 2ull * q->size);
  addr.used_user_addr = (uintptr_t)api->mem(vm, q->device, 6 + 8ull * q->size);
  if (!addr.desc_user_addr || !addr.avail_user_addr || !addr.used_user_addr) return -EFAULT;
  if (ioctl(fd, VHOST_SET_VRING_NUM, &size) < 0) return -errno;
  if (ioctl(fd, VHOST_SET_VRING_BASE, &base) < 0) return -errno;
  if (ioctl(fd, VHOST_SET_VRING_ADDR, &addr) < 0) return -errno;
  if (ioctl(fd, VHOST_SET_VRING_CALL, &call) < 0) return -errno;
  return done(ioctl(fd, VHOST_SET_VRING_KICK, &kick));
}

int vhost_backend(int fd, uint32_t index, int tap_fd) {
  struct vhost_vring_file backend = {index, tap_fd};
  return done(ioctl(fd, VHOST_NET_SET_BACKEND, &backend));
}

int vhost_base(int fd, uint32_t index) {
  struct vhost_vring_state state = {index, 0};
  struct vhost_vring_file none = {index, VHOST_FILE_UNBIND};
  int err = done(ioctl(fd, VHOST_GET_VRING_BASE, &state));
  /* Kicks and interrupts of the next activation are not this one's. */
  ioctl(fd, VHOST_SET_VRING_KICK, &none);
  ioctl(fd, VHOST_SET_VRING_CALL, &none);
  return err ? err : (int)state.num;
}
