/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a virtio device: start, kicks, interrupts, resets. In trouble: test_virtio_trouble.c. */
#include "virtio_guest.h"

TEST(virtio_queues_start_with_driver_ok) {
  struct vdev *d = v_new();
  CHECK(negotiate(d, V1));
  queue_up(d, 1);
  kick(d, 1); /* nobody is there yet: not lost, for handlers look when they start */
  v_avail(d, 1, 0, 8);
  v_desc(d, 1, 0, V_DATA, 1, 0, 0);
  EQ(v_serve(d), 0);
  EQ(fake.n_ioeventfds, 0);
  set_status(d, S_LIVE);
  EQ(v_serve(d), 1);
  EQ(d->starts, 1);
  EQ(doorbells(d, 2), 2);
  AWAIT(v_used(d, 1) == 1);
  unsigned before = d->handled[1];
  kick(d, 1);
  AWAIT(d->handled[1] > before);
  CHECK_SLEEPS();
  set_status(d, S_LIVE); /* again: nothing new */
  EQ(v_serve(d), 0);
  v_end(d);
}

TEST(virtio_sparse_queues) {
  struct vdev *d = v_new();
  setreg(d, R_SELECT, 2, 2);
  CHECK(negotiate(d, V1));
  setreg(d, R_SIZE, 2, 2);
  up(d, V1, 5);
  EQ(doorbells(d, 5), 5);
  for (unsigned i = 0; i < QUEUES; i++) EQ(vmm_queue_size(vmm_virtio_queue(d->v, i)), i == 0 ? 16 : i == 2 ? 2 : 0);
  for (unsigned n = 0; n < 10; n++) {
    echo(d, 0);
    echo(d, 2);
    kick(d, 1); /* not set up */
    setreg(d, VMM_VIRTIO_NOTIFY + 4 * (QUEUES + n * 37), 2, 0); /* not there */
  }
  EQ(d->handled[1] + d->handled[3], 0);
  CHECK(vmm_queue_handle(vmm_virtio_queue(d->v, 1), v_echo, d) < 0);
  v_end(d);
}

TEST(virtio_a_reset_shows_when_it_is_done) {
  struct vdev *d = v_new();
  up(d, V1, 15);
  echo(d, 0);
  set_status(d, 0);
  CHECK(status(d) != 0); /* the main thread has not come to it */
  setreg(d, R_SELECT, 2, 0);
  setreg(d, R_SIZE, 2, 2); /* too early to set up anything */
  set_status(d, S_ACK);
  features(d, ~0ull);
  v_serve(d);
  EQ(status(d), 0);
  EQ(d->stops, 1);
  EQ(fake.n_ioeventfds, 0);
  EQ(vmm_virtio_features(d->v), 0);
  for (unsigned i = 0; i < QUEUES; i++) {
    setreg(d, R_SELECT, 2, i);
    EQ(reg(d, R_ENABLE, 2), 0);
    EQ(reg(d, R_DESC, 8), 0);
    EQ(reg(d, R_SIZE, 2), v_sizes[i]);
    EQ(reg(d, R_VECTOR, 2), NO_VECTOR);
    EQ(vmm_queue_size(vmm_virtio_queue(d->v, i)), 0);
  }
  v_end(d);
}

TEST(virtio_reset_before_the_main_thread_saw_driver_ok) {
  struct vdev *d = v_new();
  for (unsigned n = 0; n < 5; n++) {
    CHECK(negotiate(d, V1));
    queue_up(d, 0);
    set_status(d, S_LIVE);
    set_status(d, 0);
    EQ(status(d), 0);
    v_serve(d);
    EQ(d->starts, 0);
    CHECK(negotiate(d, V1)); /* and on again at once, also before it hears of the first */
    queue_up(d, 0);
    set_status(d, S_LIVE);
    set_status(d, 0);
    up(d, V1, 1);
    EQ(d->starts, 1);
    echo(d, 0);
    down(d);
    d->starts = 0;
  }
  v_end(d);
}

TEST(virtio_activations_without_end) {
  struct vdev *d = v_new();
  static const uint64_t sets[] = {V1, V1 | RING_RESET, V1 | 3, V1 | 1ull << VMM_F_INDIRECT};
  for (unsigned n = 0; n < 300; n++) {
    unsigned queues = 1 + n % 15;
    up(d, sets[n % 4], queues);
    EQ(doorbells(d, queues), queues);
    EQ(vmm_queue_features(vmm_virtio_queue(d->v, (unsigned)__builtin_ctz(queues))), sets[n % 4]);
    for (unsigned i = 0; i < QUEUES; i++)
      if (queues >> i & 1) echo(d, i);
    down(d);
  }
  EQ(d->starts, 300);
  EQ(d->stops, 300);
  EQ(d->failures, 0);
  v_end(d);
}

TEST(virtio_a_kick_belongs_to_its_activation) {
  struct vdev *d = v_new();
  d->no_handlers = true;
  up(d, V1, 1);
  int old = vmm_queue_kick_fd(vmm_virtio_queue(d->v, 0));
  eventfd_t n;
  EQ(eventfd_read(old, &n), 0); /* the one that every start makes */
  kick(d, 0);
  down(d);
  CHECK(negotiate(d, V1));
  queue_up(d, 0);
  kick(d, 0);
  vmm_queue *q = vmm_virtio_queue(d->v, 0);
  EQ(vmm_queue_kick_fd(q), -1);
  set_status(d, S_LIVE);
  v_serve(d);
  int fd = vmm_queue_kick_fd(q);
  CHECK(fd >= 0);
  EQ(eventfd_read(fd, &n), 0);
  EQ(n, 1); /* that of the start, none of the time before */
  kick(d, 0);
  EQ(eventfd_read(fd, &n), 0);
  EQ(n, 1);
  v_end(d);
}

TEST(virtio_doorbells_follow_the_bar) {
  struct vdev *d = v_new();
  up(d, V1, 3);
  setcfg(d->vm, SLOT, BAR0, 4, 0x01000000);
  d->bar = HIGH + 0x01000000;
  EQ(doorbells(d, 3), 3);
  echo(d, 0);
  setcfg(d->vm, SLOT, COMMAND, 2, 0);
  EQ(fake.n_ioeventfds, 0);
  EQ(status(d), 0xff);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON);
  EQ(doorbells(d, 3), 3);
  echo(d, 1);
  setcfg(d->vm, SLOT, BAR0 + 4, 4, 0); /* where it cannot be */
  EQ(fake.n_ioeventfds, 0);
  setcfg(d->vm, SLOT, BAR0 + 4, 4, HIGH >> 32);
  echo(d, 0);
  v_end(d);
}

/* A guest that fills the queue of events cannot keep a device from hearing of its driver. */
TEST(virtio_a_flood_of_events) {
  struct vdev *d = v_new();
  struct vmm_event e;
  unsigned heard = 0;
  CHECK(negotiate(d, V1));
  queue_up(d, 0);
  for (unsigned n = 0; n < 2 * VMM_EVENTS; n++) vmm_post_event(d->vm, VMM_EVENT_STAMP, n);
  set_status(d, S_LIVE);
  while (vmm_event_next(d->vm, &e))
    if (e.kind == VMM_EVENT_DEVICE) {
      CHECK(e.arg == 0 || e.arg == V_TOKEN); /* 0: some device, or several */
      heard++;
      v_poll(d);
    }
  CHECK(heard && d->running);
  echo(d, 0);
  v_end(d);
}

/* --- interrupts --- */

static void msix_on(struct vdev *d) {
  for (unsigned i = 0; i <= QUEUES; i++) {
    setreg(d, VMM_VIRTIO_MSIX + 16 * i, 4, MSI_ADDR);
    setreg(d, VMM_VIRTIO_MSIX + 16 * i + 4, 4, 0);
    setreg(d, VMM_VIRTIO_MSIX + 16 * i + 8, 4, 0x30 + i);
    setreg(d, VMM_VIRTIO_MSIX + 16 * i + 12, 4, 0);
  }
  uint32_t at = cfg(d->vm, SLOT, 0x34, 1);
  while (cfg(d->vm, SLOT, at, 1) != 0x11) at = cfg(d->vm, SLOT, at + 1, 1);
  setcfg(d->vm, SLOT, at + 2, 2, 0x8000);
}

static unsigned lines(int *level) {
  pthread_mutex_lock(&fake.lock);
  unsigned n = fake.n_lines;
  if (level) *level = n ? (int)fake.line[n - 1].level : -1;
  pthread_mutex_unlock(&fake.lock);
  return n;
}

static int line_level(void) {
  int level;
  lines(&level);
  return level;
}

TEST(virtio_each_queue_has_its_vector) {
  struct vdev *d = v_new();
  msix_on(d);
  CHECK(negotiate(d, V1));
  setreg(d, R_CONFIG_VECTOR, 2, 4);
  static const unsigned vector[QUEUES] = {2, NO_VECTOR, 0, 2};
  for (unsigned i = 0; i < QUEUES; i++) {
    setreg(d, R_SELECT, 2, i);
    setreg(d, R_VECTOR, 2, vector[i]);
  }
  up(d, V1, 13); /* queue 1 stays out of it: with sparse queues the vectors are still the queues' own */
  echo(d, 2);
  AWAIT(fake_messages(MSI_ADDR, 0x30) == 1);
  echo(d, 0);
  AWAIT(fake_messages(MSI_ADDR, 0x32) == 1);
  echo(d, 3);
  AWAIT(fake_messages(MSI_ADDR, 0x32) == 2);
  uint8_t v = 1;
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 1), 0);
  EQ(fake_messages(MSI_ADDR, 0x34), 1);
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 0), 0);
  EQ(fake_messages(MSI_ADDR, 0x34), 1);
  EQ(reg(d, VMM_VIRTIO_ISR, 1), 0);
  EQ(lines(NULL), 0); /* no INTx beside MSI-X */
  down(d);
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 1), 0); /* nobody to tell */
  EQ(fake_messages(MSI_ADDR, 0x34), 1);
  up(d, V1, 2); /* without a vector */
  echo(d, 1);
  EQ(fake_messages(MSI_ADDR, 0x30) + fake_messages(MSI_ADDR, 0x32) + fake_messages(MSI_ADDR, 0x31), 3);
  v_end(d);
}

TEST(virtio_intx_and_the_isr) {
  struct vdev *d = v_new();
  uint8_t v = 1;
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 1), 0); /* nobody to tell yet */
  up(d, V1, 3);
  EQ(lines(NULL), 0);
  echo(d, 0);
  AWAIT(lines(NULL) == 1);
  EQ(line_level(), 1);
  EQ(fake.line[0].irq, 9);
  CHECK(cfg(d->vm, SLOT, 6, 2) & 8); /* interrupt status (PCI 3.0 §6.2.3) */
  setreg(d, VMM_VIRTIO_ISR, 1, 0xff); /* not writable */
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 1), 0);
  EQ(lines(NULL), 1);
  EQ(reg(d, VMM_VIRTIO_ISR + 1, 1), 0); /* not the register: does not clear */
  EQ(reg(d, VMM_VIRTIO_ISR, 1), 3);
  EQ(line_level(), 0);
  CHECK(!(cfg(d->vm, SLOT, 6, 2) & 8));
  EQ(reg(d, VMM_VIRTIO_ISR, 1), 0);
  EQ(lines(NULL), 2);
  EQ(vmm_virtio_config_set(d->v, 0, &v, 1, 1), 0);
  EQ(line_level(), 1);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON | 0x400); /* INTx held back */
  EQ(line_level(), 0);
  setcfg(d->vm, SLOT, COMMAND, 2, MEM_ON);
  EQ(line_level(), 1);
  down(d);
  EQ(line_level(), 0);
  EQ(reg(d, VMM_VIRTIO_ISR, 1), 0);
  v_end(d);
}
