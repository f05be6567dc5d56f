/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio.h"

enum { VENDOR_CAP = 0x09, CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, DESC_NEXT = 1, DESC_WRITE = 2 };

static void found(struct virtio *v, u8 cap)
{
    u64 address = pci_bar_address(v->bdf, pci_cfg_read8(v->bdf, cap + 4)) + pci_cfg_read32(v->bdf, cap + 8);
    switch (pci_cfg_read8(v->bdf, cap + 3)) {
    case CFG_COMMON: v->common = address; break;
    case CFG_ISR: v->isr = address; break;
    case CFG_DEVICE: v->config = address; break;
    case CFG_NOTIFY:
        v->notify = address;
        v->notify_multiplier = pci_cfg_read32(v->bdf, cap + 16);
        break;
    default: return;
    }
    map(address & ~0x1ffffful, 0x200000, 1);
}

int virtio_find(struct virtio *v, u16 type)
{
    int bdf = pci_find(0x1af4, 0x1040 + type);
    memset(v, 0, sizeof *v);
    if (bdf < 0)
        return 0;
    v->bdf = (u16)bdf;
    pci_cfg_write16(v->bdf, 4, pci_cfg_read16(v->bdf, 4) | 6);
    u8 at = pci_cfg_read8(v->bdf, 0x34) & 0xfc;
    for (int n = 0; at && n < 48; n++, at = pci_cfg_read8(v->bdf, at + 1) & 0xfc)
        if (pci_cfg_read8(v->bdf, at) == VENDOR_CAP)
            found(v, at);
    return v->common && v->notify;
}

void virtio_reset(struct virtio *v)
{
    mmio_write8(v->common + VIRTIO_STATUS, 0);
    for (u64 n = 0; mmio_read8(v->common + VIRTIO_STATUS) && n < 1000000; n++)
        pause();
}

u64 virtio_offered(struct virtio *v)
{
    mmio_write32(v->common + VIRTIO_DEVICE_FEATURE_SELECT, 1);
    u64 high = mmio_read32(v->common + VIRTIO_DEVICE_FEATURE);
    mmio_write32(v->common + VIRTIO_DEVICE_FEATURE_SELECT, 0);
    return high << 32 | mmio_read32(v->common + VIRTIO_DEVICE_FEATURE);
}

int virtio_negotiate(struct virtio *v, u64 features)
{
    u8 status = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER;
    virtio_reset(v);
    mmio_write8(v->common + VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE);
    mmio_write8(v->common + VIRTIO_STATUS, status);
    v->features = features | VIRTIO_F_VERSION_1;
    for (u32 half = 0; half < 2; half++) {
        mmio_write32(v->common + VIRTIO_DRIVER_FEATURE_SELECT, half);
        mmio_write32(v->common + VIRTIO_DRIVER_FEATURE, (u32)(v->features >> 32 * half));
    }
    mmio_write8(v->common + VIRTIO_STATUS, status | VIRTIO_FEATURES_OK);
    return mmio_read8(v->common + VIRTIO_STATUS) & VIRTIO_FEATURES_OK;
}

int virtq_setup(struct virtio *v, struct virtq *q, u16 index, u16 size, void *memory)
{
    u64 at = (u64)memory;
    mmio_write16(v->common + VIRTIO_QUEUE_SELECT, index);
    u16 most = mmio_read16(v->common + VIRTIO_QUEUE_SIZE);
    if (!most || size > 128)
        return 0;
    memset(memory, 0, 3 * 4096);
    *q = (struct virtq){
        .index = index, .size = size < most ? size : most, .desc = memory, .avail = (u16 *)(at + 4096),
        .used = (u16 *)(at + 8192),
        .notify = v->notify + (u64)v->notify_multiplier * mmio_read16(v->common + VIRTIO_QUEUE_NOTIFY_OFF),
    };
    mmio_write16(v->common + VIRTIO_QUEUE_SIZE, q->size);
    for (u16 part = 0; part < 3; part++) {
        mmio_write32(v->common + VIRTIO_QUEUE_DESC + 8 * part, (u32)(at + 4096 * part));
        mmio_write32(v->common + VIRTIO_QUEUE_DESC + 8 * part + 4, (u32)((at + 4096 * part) >> 32));
    }
    mmio_write16(v->common + VIRTIO_QUEUE_ENABLE, 1);
    return 1;
}

void virtio_driver_ok(struct virtio *v)
{
    mmio_write8(v->common + VIRTIO_STATUS, mmio_read8(v->common + VIRTIO_STATUS) | VIRTIO_DRIVER_OK);
}

void virtq_submit(struct virtq *q, const struct virtq_piece *pieces, u16 n)
{
    for (u16 i = 0; i < n; i++)
        q->desc[i] = (struct virtq_desc){
            (u64)pieces[i].data, pieces[i].length,
            (u16)((pieces[i].writable ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0)), (u16)(i + 1),
        };
    q->avail[2 + q->avail[1] % q->size] = 0;
    __asm__ volatile("" ::: "memory"); /* stores stay in order on this CPU: the compiler is all that could swap them */
    q->avail[1]++;
    mmio_write16(q->notify, q->index);
}

int virtq_wait(struct virtq *q)
{
    for (u64 n = 0; q->used[1] == q->taken; n++) {
        if (n == 20000000)
            return -1;
        pause();
    }
    volatile u32 *entry = (volatile u32 *)(q->used + 2) + 2 * (q->taken++ % q->size);
    return (int)entry[1];
}

int virtq_request(struct virtq *q, const struct virtq_piece *pieces, u16 n)
{
    virtq_submit(q, pieces, n);
    return virtq_wait(q);
}
