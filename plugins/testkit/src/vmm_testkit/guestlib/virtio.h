/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio driver for bare-metal guests: PCI transport (virtio 1.2 §4.1), split rings (§2.7), polling.
 *
 *   static u8 ring[3 * 4096] __attribute__((aligned(4096)));
 *   struct virtio dev;
 *   struct virtq q;
 *   CHECK(virtio_find(&dev, 63), "no device");
 *   CHECK(virtio_negotiate(&dev, 0), "features refused");
 *   CHECK(virtq_setup(&dev, &q, 0, 64, ring), "no queue");
 *   virtio_driver_ok(&dev);
 *   struct virtq_piece pieces[] = {{"hello", 5, 0}, {reply, sizeof reply, 1}};
 *   int length = virtq_request(&q, pieces, 2);
 */
#ifndef VMM_TESTKIT_VIRTIO_H
#define VMM_TESTKIT_VIRTIO_H

#include "guest.h"

#define VIRTIO_F_VERSION_1 (1ull << 32)
enum { VIRTIO_ACKNOWLEDGE = 1, VIRTIO_DRIVER = 2, VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8, VIRTIO_NEEDS_RESET = 64 };
/* offsets in the common configuration, §4.1.4.3 */
enum {
    VIRTIO_DEVICE_FEATURE_SELECT = 0, VIRTIO_DEVICE_FEATURE = 4, VIRTIO_DRIVER_FEATURE_SELECT = 8,
    VIRTIO_DRIVER_FEATURE = 12, VIRTIO_CONFIG_VECTOR = 16, VIRTIO_NUM_QUEUES = 18, VIRTIO_STATUS = 20,
    VIRTIO_GENERATION = 21, VIRTIO_QUEUE_SELECT = 22, VIRTIO_QUEUE_SIZE = 24, VIRTIO_QUEUE_VECTOR = 26,
    VIRTIO_QUEUE_ENABLE = 28, VIRTIO_QUEUE_NOTIFY_OFF = 30, VIRTIO_QUEUE_DESC = 32, VIRTIO_QUEUE_DRIVER = 40,
    VIRTIO_QUEUE_DEVICE = 48,
};

struct virtio {
    u16 bdf;
    u64 common, isr, config, notify; /* addresses, for mmio_*; 0: not there */
    u32 notify_multiplier;
    u64 features; /* agreed upon */
};

struct virtq_desc { u64 address; u32 length; u16 flags, next; };
struct virtq_piece {
    const void *data; /* identity mapped */
    u32 length;
    int writable; /* by the device; readable pieces come first */
};
struct virtq {
    u16 index, size, taken; /* taken: used entries seen */
    struct virtq_desc *desc;
    volatile u16 *avail; /* flags, idx, ring[size], used_event */
    volatile u16 *used;  /* flags, idx, ring[size] of two u32, avail_event */
    u64 notify;
};

int virtio_find(struct virtio *v, u16 type); /* device type number; switches decoding on; 0: not there */
void virtio_reset(struct virtio *v);         /* returns when the device says that it is done */
u64 virtio_offered(struct virtio *v);
int virtio_negotiate(struct virtio *v, u64 features); /* from reset to FEATURES_OK; VERSION_1 is added; 0: refused */
/* `memory`: 3 pages, page aligned, enough for sizes up to 128; 0: there is no such queue */
int virtq_setup(struct virtio *v, struct virtq *q, u16 index, u16 size, void *memory);
void virtio_driver_ok(struct virtio *v);
/* Make a request available and kick. Up to `size` pieces, in descriptors 0..n-1: one request at a time. */
void virtq_submit(struct virtq *q, const struct virtq_piece *pieces, u16 n);
int virtq_wait(struct virtq *q); /* bytes that the device wrote, -1: no answer */
int virtq_request(struct virtq *q, const struct virtq_piece *pieces, u16 n); /* both */

#endif
