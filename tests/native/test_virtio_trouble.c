/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio devices in trouble: resets of single queues, broken rings, failures, several threads, states from elsewhere. */
#include "virtio_guest.h"

/* --- single queues (§2.6.1) --- */

static void reset_queue(struct vdev *d, unsigned i, unsigned value) {
  setreg(d, R_SELECT, 2, i);
  setreg(d, R_RESET, 2, value);
}

TEST(virtio_one_queue_is_reset) {
  struct vdev *d = v_new();
  up(d, V1 | RING_RESET, 7);
  echo(d, 0), echo(d, 1);
  for (unsigned n = 0; n < 20; n++) {
    reset_queue(d, 1, 1);
    EQ(reg(d, R_RESET, 2), 1); /* until it is done */
    setreg(d, R_ENABLE, 2, 1); /* too early */
    v_serve(d);
    EQ(reg(d, R_RESET, 2), 0);
    EQ(reg(d, R_ENABLE, 2), 0);
    EQ(reg(d, R_SIZE, 2), 8);
    EQ(doorbells(d, 5), 5);
    EQ(status(d), S_LIVE);
    echo(d, 0), echo(d, 2);
    setreg(d, R_SELECT, 2, 1);
    setreg(d, R_SIZE, 2, 1u << n % 4);
    if (n % 4 == 0) setreg(d, R_SIZE, 2, 2);
    queue_up(d, 1);
    v_serve(d);
    EQ(doorbells(d, 7), 7);
    echo(d, 1), echo(d, 0);
  }
  EQ(d->failures, 0);
  reset_queue(d, 1, 1); /* both at once */
  down(d);
  up(d, V1, 7);
  echo(d, 1);
  v_end(d);
}

TEST(virtio_queue_reset_that_means_nothing) {
  struct vdev *d = v_new();
  up(d, V1, 1);
  reset_queue(d, 0, 1); /* not negotiated */
  EQ(reg(d, R_RESET, 2), 0);
  EQ(reg(d, R_ENABLE, 2), 1);
  EQ(v_serve(d), 0);
  down(d);
  up(d, V1 | RING_RESET, 1);
  reset_queue(d, 0, 0);
  reset_queue(d, 0, 2);
  reset_queue(d, 1, 1); /* not enabled */
  EQ(reg(d, R_RESET, 2), 0);
  EQ(v_serve(d), 0);
  echo(d, 0);
  down(d);
  CHECK(negotiate(d, V1 | RING_RESET)); /* before DRIVER_OK: at once */
  queue_up(d, 0);
  reset_queue(d, 0, 1);
  EQ(reg(d, R_ENABLE, 2), 0);
  EQ(reg(d, R_RESET, 2), 0);
  v_end(d);
}

/* --- failures --- */

TEST(virtio_a_broken_ring_asks_for_a_reset) {
  struct vdev *d = v_new();
  vmm_set_log_level(d->vm, 0);
  for (unsigned n = 0; n < 5; n++) {
    up(d, V1, 3);
    v_avail(d, 1, 0xffff, 8);
    kick(d, 1);
    AWAIT(status(d) & S_RESET);
    kick(d, 0);
    AWAIT(v_serve(d));
    EQ(d->failures, n + 1);
    CHECK(!d->running);
    CHECK(strstr(vmm_virtio_why(d->v), "queue 1"));
    v_go(d); /* the VM was paused and goes on */
    CHECK(!d->running);
    EQ(reg(d, VMM_VIRTIO_ISR, 1) & 2, 2); /* §2.1.2: a configuration change */
    set_status(d, S_LIVE);
    v_serve(d);
    CHECK(!d->running && status(d) & S_RESET); /* only a reset helps */
    down(d);
  }
  up(d, V1, 3);
  echo(d, 1);
  v_end(d);
}

TEST(virtio_rings_that_cannot_be) {
  struct vdev *d = v_new();
  for (unsigned what = 0; what < 6; what++) {
    CHECK(negotiate(d, V1));
    setreg(d, R_SELECT, 2, 0);
    if (what == 0) setreg(d, R_SIZE, 2, 3);
    static const unsigned where[] = {R_DESC, R_DESC, R_DRIVER, R_DEVICE, R_DEVICE, R_DESC};
    static const uint64_t addr[] = {0, V_RING + 4, V_RAM - 4, 0xfee00000, UINT64_MAX - 3, V_RAM - 0x80};
    queue_up(d, 1);
    memset(vmm_mem(d->vm, v_ring(0), 0x10000), 0, 0x10000);
    setreg(d, R_SELECT, 2, 0);
    setreg(d, R_DESC, 8, v_ring(0)), setreg(d, R_DRIVER, 8, v_ring(0) + 0x8000), setreg(d, R_DEVICE, 8, v_ring(0) + 0xc000);
    if (what) setreg(d, where[what], 8, addr[what]);
    setreg(d, R_ENABLE, 2, 1);
    set_status(d, S_LIVE);
    v_serve(d);
    CHECK(!d->running);
    EQ(status(d), S_LIVE | S_RESET);
    EQ(d->failures, what + 1);
    kick(d, 0), kick(d, 1);
    EQ(v_serve(d), 0);
    down(d);
    EQ(fake.n_ioeventfds, 0);
    up(d, V1, 3);
    echo(d, 0), echo(d, 1);
    down(d);
  }
  v_end(d);
}

TEST(virtio_a_device_that_fails) {
  struct vdev *d = v_new();
  up(d, V1, 1);
  vmm_queue_fail(vmm_virtio_queue(d->v, 0), "the cable is out");
  vmm_queue_fail(vmm_virtio_queue(d->v, 0), "second");
  EQ(status(d), S_LIVE | S_RESET);
  v_serve(d);
  EQ(d->failures, 1);
  CHECK(!strcmp(vmm_virtio_why(d->v), "the cable is out"));
  down(d);
  up(d, V1, 1);
  echo(d, 0);
  v_end(d);
}

/* --- several threads --- */

static struct vdev *shared;

/* A vCPU that rings all doorbells and reads all registers, whatever the others do. */
static void storm(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  static const struct {
    uint32_t at, size;
    bool write;
  } access[] = {{VMM_VIRTIO_NOTIFY, 2, true}, {VMM_VIRTIO_NOTIFY + 4, 4, true}, {R_STATUS, 1, false},
                {VMM_VIRTIO_ISR, 1, false}, {R_SIZE, 2, false}, {VMM_VIRTIO_NOTIFY + 8, 2, true},
                {VMM_VIRTIO_CONFIG, 4, false}, {R_DEVICE_FEATURE, 4, false}};
  unsigned n = (turn + cpu) % 8;
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.phys_addr = shared->bar + access[n].at;
  run->mmio.len = access[n].size;
  run->mmio.is_write = access[n].write;
  memset(run->mmio.data, 0, 8);
}

TEST(virtio_resets_amid_a_storm_of_kicks) {
  struct vdev *d = shared = v_new();
  guest_start(d->vm, 3);
  guest_program(1, storm);
  guest_program(2, storm);
  for (unsigned n = 0; n < 60; n++) {
    up(d, V1 | RING_RESET, 1 + n % 7);
    if ((1 + n % 7) & 1) {
      uint16_t before = v_used(d, 0);
      v_desc(d, 0, 0, V_DATA, 1, 1, 1);
      v_desc(d, 0, 1, V_DATA + 1, 1, 2, 0);
      v_avail(d, 0, 0, 16);
      guest_write(0, VMM_MMIO, d->bar + VMM_VIRTIO_NOTIFY, 2, 0);
      AWAIT(v_used(d, 0) == (uint16_t)(before + 1));
      reset_queue(d, 0, 1);
      v_serve(d);
      EQ(reg(d, R_ENABLE, 2), 0);
    }
    guest_write(0, VMM_MMIO, d->bar + R_STATUS, 1, 0);
    v_serve(d);
    EQ(status(d), 0);
  }
  EQ(d->starts, d->stops);
  EQ(d->failures, 0);
  v_end(d);
}

/* --- saving --- */

TEST(virtio_state_moves_to_another_device) {
  struct vdev *d = v_new();
  up(d, V1 | 3, 5);
  for (unsigned n = 0; n < 20; n++) echo(d, 0);
  v_halt(d);
  size_t len = vmm_virtio_state_size(d->v);
  uint8_t *state = malloc(len), *memory = malloc(V_RAM);
  CHECK(state && memory);
  vmm_virtio_save(d->v, state);
  memcpy(memory, vmm_mem(d->vm, 0, V_RAM), V_RAM);
  uint16_t avail = d->avail[0];
  v_end(d);
  d = v_new();
  memcpy(vmm_mem(d->vm, 0, V_RAM), memory, V_RAM);
  EQ(vmm_virtio_restore(d->v, state, len - 1), -EINVAL);
  EQ(vmm_virtio_restore(d->v, state, 0), -EINVAL);
  EQ(vmm_virtio_restore(d->v, state, len), 0);
  EQ(status(d), S_LIVE);
  EQ(vmm_virtio_features(d->v), V1 | 3);
  EQ(doorbells(d, 5), 5);
  v_go(d);
  CHECK(d->running);
  d->avail[0] = avail;
  echo(d, 0);
  EQ(v_used(d, 0), 21);
  down(d);
  up(d, V1, 15);
  echo(d, 3);
  v_end(d);
  free(state);
  free(memory);
}

/* A state from anywhere: refused or taken, but the device is whole. */
TEST(virtio_a_state_that_is_broken) {
  struct vdev *d = v_new();
  up(d, V1, 5);
  echo(d, 0);
  v_halt(d);
  size_t len = vmm_virtio_state_size(d->v);
  uint8_t *state = malloc(len), *bad = malloc(len);
  CHECK(state && bad);
  vmm_virtio_save(d->v, state);
  v_end(d);
  for (unsigned n = 0; n < 150; n++) {
    d = v_new();
    memcpy(bad, state, len);
    for (unsigned k = 0; k <= n % 3; k++) bad[(n * 7919 + k * 104729) % len] ^= (uint8_t)(1 + n * 37);
    (void)vmm_virtio_restore(d->v, bad, len);
    v_go(d);
    kick(d, 0), kick(d, 2);
    set_status(d, 0);
    v_poll(d);
    v_serve(d);
    EQ(status(d), 0);
    up(d, V1, 15);
    echo(d, 0), echo(d, 2);
    v_end(d);
  }
  free(state);
  free(bad);
}
