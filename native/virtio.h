/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio transport: see virtio.c. */
#ifndef VMM_VIRTIO_H
#define VMM_VIRTIO_H

#include "pci.h"
#include "queue.h"

#define VMM_VIRTIO_QUEUES 1024
#define VMM_VIRTIO_REQUIRES 64
#define VMM_F_RING_RESET 40

/* Offsets in BAR 0, the anchor's. */
enum {
  VMM_VIRTIO_ISR = 0x2000, VMM_VIRTIO_CONFIG = 0x4000, VMM_VIRTIO_NOTIFY = 0x6000,
  VMM_VIRTIO_MSIX = 0x8000, VMM_VIRTIO_PBA = 0x48000, VMM_VIRTIO_BAR = 0x80000,
};

enum { VMM_WANT_START = 1, VMM_WANT_HALT = 2, VMM_WANT_CONFIG = 4, VMM_WANT_FAILED = 8 };

struct vmm_virtio_require {
  unsigned bit;
  uint64_t mask;
};

struct vmm_virtio {
  vmm_vm *vm;
  vmm_pci_dev *pci;
  uint64_t token; /* of the device, in VMM_EVENT_DEVICE */
  pthread_mutex_t lock;     /* the registers */
  pthread_mutex_t isr_lock; /* isr; taken last */
  _Atomic bool posted;      /* the main thread has been told and has not asked yet */
  uint64_t offered, accepted;
  uint32_t device_select, driver_select;
  uint16_t queue_select, config_vector;
  uint8_t status, generation, isr;
  bool live;      /* between vmm_virtio_start() and a reset */
  bool resetting; /* the driver wrote 0 to a live device */
  bool failed, config_written, config_watched;
  char why[200];
  unsigned vectors;
  uint32_t window;
  unsigned n_requires;
  struct vmm_virtio_require require[VMM_VIRTIO_REQUIRES];
  vmm_features_fn check_features;
  void *check_opaque;
  vmm_loop *call_loop;
  uint32_t config_len;
  uint8_t config[4096], config_mask[4096], config_first[4096]; /* now; bits that the driver may write; at first */
  unsigned n;
  vmm_queue queue[];
};

#endif
