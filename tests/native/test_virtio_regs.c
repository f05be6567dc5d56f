/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of the virtio transport (virtio 1.2 §4.1.4): common configuration, ISR, device configuration, PCI_CFG. */
#include "virtio_guest.h"

TEST(virtio_registers_after_reset) {
  struct vdev *d = v_new();
  EQ(reg(d, R_NUM_QUEUES, 2), QUEUES);
  EQ(status(d), 0);
  EQ(reg(d, R_CONFIG_VECTOR, 2), NO_VECTOR);
  for (unsigned i = 0; i < QUEUES; i++) {
    setreg(d, R_SELECT, 2, i);
    EQ(reg(d, R_SELECT, 2), i);
    EQ(reg(d, R_SIZE, 2), v_sizes[i]);
    EQ(reg(d, R_VECTOR, 2), NO_VECTOR);
    EQ(reg(d, R_ENABLE, 2), 0);
    EQ(reg(d, R_NOTIFY_OFF, 2), i);
    EQ(reg(d, R_DESC, 8) | reg(d, R_DRIVER, 8) | reg(d, R_DEVICE, 8), 0);
    EQ(reg(d, R_RESET, 2), 0);
  }
  EQ(v_serve(d), 0);
  v_end(d);
}

TEST(virtio_feature_words) {
  struct vdev *d = v_new();
  static const uint32_t selects[] = {0, 1, 2, 3, 31, 32, 0x80000000, 0xffffffff};
  for (unsigned i = 0; i < 8; i++) {
    setreg(d, R_DEVICE_SELECT, 4, selects[i]);
    EQ(reg(d, R_DEVICE_SELECT, 4), selects[i]);
    EQ(reg(d, R_DEVICE_FEATURE, 4), i == 0 ? (uint32_t)OFFERED : i == 1 ? (uint32_t)(OFFERED >> 32) : 0);
    setreg(d, R_DRIVER_SELECT, 4, selects[i]);
    setreg(d, R_DRIVER_FEATURE, 4, i < 2 ? (V1 | 4) >> 32 * i : 0xffffffff);
  }
  setreg(d, R_DRIVER_SELECT, 4, 0);
  EQ(reg(d, R_DRIVER_FEATURE, 4), 4);
  set_status(d, S_ACK | S_DRIVER | S_FEATURES);
  CHECK(status(d) & S_FEATURES);
  EQ(vmm_virtio_features(d->v), V1 | 4);
  features(d, V1); /* too late */
  EQ(vmm_virtio_features(d->v), V1 | 4);
  v_end(d);
}

static int no_bit_2(void *opaque, uint64_t f) {
  CHECK(opaque == (void *)0x55);
  return !(f & 4);
}

TEST(virtio_features_ok_is_refused) {
  struct vdev *d = v_new();
  static const uint64_t bad[] = {0, 1, V1 | 8, V1 | 1ull << 63, V1 | 2, ~0ull, 1ull << VMM_F_PACKED};
  for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK(!negotiate(d, bad[i]));
    EQ(vmm_virtio_features(d->v), 0);
    set_status(d, S_LIVE); /* and goes on all the same: still refused, and nothing starts */
    EQ(status(d), S_ACK | S_DRIVER);
    EQ(v_serve(d), 0);
    down(d);
  }
  CHECK(!negotiate(d, V1 | 2));
  features(d, V1 | 3); /* it may try again */
  set_status(d, S_ACK | S_DRIVER | S_FEATURES);
  CHECK(status(d) & S_FEATURES);
  down(d);
  vmm_virtio_check(d->v, no_bit_2, (void *)0x55);
  CHECK(!negotiate(d, V1 | 4));
  down(d);
  CHECK(negotiate(d, V1 | 1));
  v_end(d);
}

TEST(virtio_status_bits_are_only_added) {
  struct vdev *d = v_new();
  set_status(d, S_ACK | S_DRIVER);
  set_status(d, S_DRIVER);
  EQ(status(d), S_ACK | S_DRIVER);
  set_status(d, S_RESET); /* the device's own (§2.1.2) */
  EQ(status(d), S_ACK | S_DRIVER);
  set_status(d, S_OK); /* §3.1.1: not before FEATURES_OK */
  EQ(status(d), S_ACK | S_DRIVER);
  EQ(v_serve(d), 0);
  EQ(d->starts, 0);
  set_status(d, S_FAILED);
  EQ(status(d), S_ACK | S_DRIVER | S_FAILED);
  v_serve(d);
  down(d);
  v_end(d);
}

TEST(virtio_queue_select_out_of_range) {
  struct vdev *d = v_new();
  CHECK(negotiate(d, OFFERED));
  static const unsigned selects[] = {QUEUES, QUEUES + 1, 1023, 1024, 0x7fff, 0x8000, 0xffff};
  for (unsigned i = 0; i < sizeof selects / sizeof *selects; i++) {
    setreg(d, R_SELECT, 2, selects[i]);
    EQ(reg(d, R_SELECT, 2), selects[i]);
    for (unsigned at = R_SIZE; at < R_END; at += 2) {
      setreg(d, at, 2, 1);
      EQ(reg(d, at, 2), at == R_VECTOR ? NO_VECTOR : 0);
    }
    setreg(d, R_DESC, 8, V_RING);
    EQ(reg(d, R_DESC, 8), 0);
  }
  for (unsigned i = 0; i < QUEUES; i++) {
    setreg(d, R_SELECT, 2, i);
    EQ(reg(d, R_ENABLE, 2), 0);
    EQ(reg(d, R_SIZE, 2), v_sizes[i]);
  }
  v_end(d);
}

TEST(virtio_queue_registers) {
  struct vdev *d = v_new();
  setreg(d, R_ENABLE, 2, 1); /* before FEATURES_OK */
  EQ(reg(d, R_ENABLE, 2), 0);
  CHECK(negotiate(d, OFFERED));
  static const unsigned bad[] = {0, 17, 32, 0x8000, 0xffff};
  for (unsigned i = 0; i < 5; i++) {
    setreg(d, R_SIZE, 2, bad[i]);
    EQ(reg(d, R_SIZE, 2), 16);
  }
  setreg(d, R_SIZE, 2, 8);
  EQ(reg(d, R_SIZE, 2), 8);
  setreg(d, R_DESC, 4, 0x11112222), setreg(d, R_DESC + 4, 4, 0x33334444);
  EQ(reg(d, R_DESC, 8), 0x3333444411112222);
  setreg(d, R_DEVICE, 8, 0x5555666677778888);
  EQ(reg(d, R_DEVICE, 4), 0x77778888);
  EQ(reg(d, R_DEVICE + 4, 4), 0x55556666);
  static const unsigned no_enable[] = {0, 2, 0x100, 0xffff};
  for (unsigned i = 0; i < 4; i++) {
    setreg(d, R_ENABLE, 2, no_enable[i]);
    EQ(reg(d, R_ENABLE, 2), 0);
  }
  setreg(d, R_ENABLE, 2, 1);
  EQ(reg(d, R_ENABLE, 2), 1);
  setreg(d, R_ENABLE, 2, 0); /* §4.1.4.3.2: no way back */
  setreg(d, R_SIZE, 2, 4);
  setreg(d, R_DESC, 4, 1);
  setreg(d, R_DRIVER, 8, 1);
  EQ(reg(d, R_ENABLE, 2), 1);
  EQ(reg(d, R_SIZE, 2), 8);
  EQ(reg(d, R_DESC, 4), 0x11112222);
  EQ(reg(d, R_DRIVER, 8), 0);
  v_end(d);
}

/* Every access that is none of a register, of each width: reads may give anything, writes change nothing. */
TEST(virtio_odd_accesses_change_nothing) {
  struct vdev *d = v_new();
  CHECK(negotiate(d, OFFERED));
  queue_up(d, 0);
  setreg(d, R_SELECT, 2, 1);
  setreg(d, R_DESC, 8, 0x1234567890);
  uint8_t before[R_END], after[R_END];
  static const uint8_t size_of[R_END] = { /* at the start of each register that may be written */
      [R_DEVICE_SELECT] = 4, [R_DRIVER_SELECT] = 4, [R_DRIVER_FEATURE] = 4, [R_CONFIG_VECTOR] = 2, [R_STATUS] = 1,
      [R_SELECT] = 2, [R_SIZE] = 2, [R_VECTOR] = 2, [R_ENABLE] = 2, [R_DESC] = 12, [R_DESC + 4] = 4, [R_DRIVER] = 12,
      [R_DRIVER + 4] = 4, [R_DEVICE] = 12, [R_DEVICE + 4] = 4, [R_RESET] = 2};
  for (unsigned i = 0; i < R_END; i++) before[i] = (uint8_t)reg(d, i, 1);
  for (unsigned at = 0; at < 0x2000; at += at < 0x80 ? 1 : 251)
    for (unsigned size = 1; size <= 8; size *= 2) {
      if (at < R_END && size_of[at] & size) continue;
      setreg(d, at, size, 0xa5a5a5a5a5a5a5a5);
      (void)reg(d, at, size);
      setreg(d, at, size, 1);
      setreg(d, at, size, 0);
    }
  for (unsigned i = 0; i < R_END; i++) after[i] = (uint8_t)reg(d, i, 1);
  for (unsigned i = 0; i < R_END; i++) EQ(after[i], before[i]);
  EQ(v_serve(d), 0);
  v_end(d);
}

TEST(virtio_reads_of_any_width_agree) {
  struct vdev *d = v_new();
  CHECK(negotiate(d, OFFERED));
  queue_up(d, 2);
  for (unsigned at = 0; at < R_END + 8; at++)
    for (unsigned size = 2; size <= 8; size *= 2) {
      uint64_t bytes = 0;
      for (unsigned i = 0; i < size; i++) bytes |= reg(d, at + i, 1) << 8 * i;
      if (at + size <= R_END) EQ(reg(d, at, size), bytes);
    }
  EQ(reg(d, R_END, 4), 0);
  EQ(reg(d, 0x1ff8, 8), 0);
  v_end(d);
}

TEST(virtio_vectors_out_of_range) {
  struct vdev *d = v_new();
  for (unsigned i = 0; i < 0x10000; i += i < 16 ? 1 : 997) {
    setreg(d, R_CONFIG_VECTOR, 2, i);
    EQ(reg(d, R_CONFIG_VECTOR, 2), i <= QUEUES ? i : NO_VECTOR);
    setreg(d, R_VECTOR, 2, i);
    EQ(reg(d, R_VECTOR, 2), i <= QUEUES ? i : NO_VECTOR);
  }
  setreg(d, R_VECTOR, 2, 1);
  setreg(d, R_VECTOR, 2, NO_VECTOR);
  EQ(reg(d, R_VECTOR, 2), NO_VECTOR);
  v_end(d);
}

/* --- device configuration --- */

TEST(virtio_device_configuration) {
  struct vdev *d = v_new();
  EQ(reg(d, VMM_VIRTIO_CONFIG, 8), 0x0807060504030201);
  EQ(reg(d, VMM_VIRTIO_CONFIG + 6, 4), 0x0807); /* beyond: 0 */
  EQ(reg(d, VMM_VIRTIO_CONFIG + 8, 1), 0);
  EQ(reg(d, VMM_VIRTIO_CONFIG + 4096, 8), 0);
  setreg(d, VMM_VIRTIO_CONFIG + 3, 4, 0xffffffff);
  EQ(reg(d, VMM_VIRTIO_CONFIG, 8), 0x08070fff04030201);
  v_serve(d);
  EQ(d->config_writes, 1);
  setreg(d, VMM_VIRTIO_CONFIG, 4, 0); /* nothing that it may write */
  setreg(d, VMM_VIRTIO_CONFIG + 8, 8, ~0ull);
  setreg(d, VMM_VIRTIO_CONFIG + 0x1ff8, 8, ~0ull);
  EQ(v_serve(d), 0);
  EQ(d->config_writes, 1);
  EQ(reg(d, VMM_VIRTIO_CONFIG, 8), 0x08070fff04030201);
  uint8_t own = 9; /* the device's own change stays, what the driver wrote does not outlive a reset */
  EQ(vmm_virtio_config_set(d->v, 0, &own, 1, 0), 0);
  setreg(d, R_STATUS, 1, 0);
  EQ(reg(d, VMM_VIRTIO_CONFIG, 8), 0x0807060504030209);
  v_serve(d);
  EQ(d->config_writes, 2);
  v_end(d);
}

TEST(virtio_generation_changes_with_the_configuration) {
  struct vdev *d = v_new();
  for (unsigned i = 0; i < 300; i++) { /* over 8 bits */
    unsigned before = (unsigned)reg(d, R_GENERATION, 1);
    uint8_t v = (uint8_t)i;
    EQ(vmm_virtio_config_set(d->v, 2, &v, 1, 0), 0);
    CHECK(reg(d, R_GENERATION, 1) != before);
    EQ(reg(d, VMM_VIRTIO_CONFIG + 2, 1), v);
  }
  uint8_t bytes[9] = {0};
  EQ(vmm_virtio_config_set(d->v, 0, bytes, 9, 0), -EINVAL);
  EQ(vmm_virtio_config_set(d->v, 8, bytes, 1, 0), -EINVAL);
  EQ(vmm_virtio_config_set(d->v, 9, bytes, 0, 0), -EINVAL);
  EQ(vmm_virtio_config_set(d->v, 0xffffffff, bytes, 2, 0), -EINVAL);
  EQ(vmm_virtio_config_set(d->v, 0, bytes, 8, 0), 0);
  v_end(d);
}

/* --- PCI_CFG (§4.1.4.9) --- */

static void window(struct vdev *d, unsigned bar, uint32_t offset, uint32_t len) {
  setcfg(d->vm, SLOT, d->window + 4, 1, bar);
  setcfg(d->vm, SLOT, d->window + 8, 4, offset);
  setcfg(d->vm, SLOT, d->window + 12, 4, len);
}

static uint32_t window_read(struct vdev *d, uint32_t offset, uint32_t len) {
  window(d, 0, offset, len);
  return cfg(d->vm, SLOT, d->window + 16, len);
}

TEST(virtio_window_in_config_space) {
  struct vdev *d = v_new();
  setcfg(d->vm, SLOT, COMMAND, 2, 0); /* it works while the BAR does not decode: that is what it is for */
  EQ(window_read(d, R_NUM_QUEUES, 2), QUEUES);
  EQ(window_read(d, VMM_VIRTIO_CONFIG + 4, 4), 0x08070605);
  EQ(window_read(d, R_STATUS, 1), 0);
  window(d, 0, R_STATUS, 1);
  setcfg(d->vm, SLOT, d->window + 16, 1, S_ACK);
  EQ(window_read(d, R_STATUS, 1), S_ACK);
  window(d, 0, R_SELECT, 2);
  setcfg(d->vm, SLOT, d->window + 16, 2, 2);
  EQ(window_read(d, R_SIZE, 2), 256);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON);
  EQ(status(d), S_ACK);
  v_end(d);
}

TEST(virtio_window_abuse) {
  struct vdev *d = v_new();
  CHECK(negotiate(d, OFFERED));
  static const uint32_t lens[] = {0, 3, 5, 8, 16, 0x80000000, 0xffffffff, 1, 2, 4};
  static const uint32_t offsets[] = {R_STATUS + 1, 1, 3, 0x7ffe, 0x7fff, VMM_VIRTIO_MSIX, VMM_VIRTIO_PBA, VMM_VIRTIO_BAR,
                                     VMM_VIRTIO_BAR - 4, 0x7ffffffc, 0xfffffffc, 0xffffffff, VMM_VIRTIO_NOTIFY + 4 * QUEUES};
  for (unsigned b = 0; b < 8; b++)
    for (unsigned o = 0; o < sizeof offsets / sizeof *offsets; o++)
      for (unsigned l = 0; l < sizeof lens / sizeof *lens; l++)
        for (unsigned size = 1; size <= 4; size *= 2) {
          window(d, b == 7 ? 255 : b, offsets[o], lens[l]);
          (void)cfg(d->vm, SLOT, d->window + 16, size);
          setcfg(d->vm, SLOT, d->window + 16, size, 0);
          setcfg(d->vm, SLOT, d->window + 16, size, 0xffffffff);
        }
  for (unsigned b = 1; b < 256; b += b < 6 ? 1 : 83) { /* a fine access, but of a BAR that is not there */
    window(d, b, R_STATUS, 1);
    setcfg(d->vm, SLOT, d->window + 16, 1, 0);
  }
  EQ(status(d), S_ACK | S_DRIVER | S_FEATURES);
  EQ(reg(d, R_NUM_QUEUES, 2), QUEUES);
  for (unsigned i = 0; i <= QUEUES; i++) EQ(reg(d, VMM_VIRTIO_MSIX + 16 * i + 12, 4), 1); /* still masked */
  EQ(cfg(d->vm, SLOT, d->window + 2, 1), 20); /* what is read-only has stayed */
  EQ(cfg(d->vm, SLOT, d->window + 3, 1), 5);
  v_end(d);
}
