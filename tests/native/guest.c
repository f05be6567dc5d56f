/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guests for the fake KVM: what KVM_RUN does. A vCPU idles until it is told to
 * make one access or to follow a program, and leaves for a signal as KVM does.
 */
#include "harness.h"
#include "guest.h"

static struct fake_cpu {
  pthread_mutex_t lock;
  int wake_fd; /* eventfd: there is something to do */
  bool has_request, in_flight, in_program;
  struct kvm_run request;
  uint64_t value;
  uint32_t size;
  sem_t done;
  guest_next program;
  pthread_cond_t turned;
  uint64_t turns;
} cpu[FAKE_CPUS];
static unsigned n_cpus;

/* With c->lock held: the access that the last exit asked for is done now. */
static void complete(struct fake_cpu *c, struct kvm_run *run) {
  if (c->in_program) {
    c->in_program = false;
    c->turns++;
    pthread_cond_broadcast(&c->turned);
  }
  if (!c->in_flight) return;
  c->in_flight = false;
  c->value = 0;
  if (run->exit_reason == KVM_EXIT_IO)
    memcpy(&c->value, (uint8_t *)run + run->io.data_offset, c->size);
  else if (run->exit_reason == KVM_EXIT_MMIO)
    memcpy(&c->value, run->mmio.data, c->size);
  sem_post(&c->done);
}

static bool next_exit(unsigned index, struct kvm_run *run) {
  struct fake_cpu *c = &cpu[index];
  bool got = true;
  pthread_mutex_lock(&c->lock);
  complete(c, run);
  if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)) {
    got = false;
  } else if (c->has_request) {
    /* not over immediate_exit, which other threads write */
    run->exit_reason = c->request.exit_reason;
    memcpy(run->padding, c->request.padding, 256);
    if (run->exit_reason == KVM_EXIT_IO) memcpy((uint8_t *)run + GUEST_DATA, &c->value, 8);
    c->has_request = false;
    c->in_flight = true;
  } else if (c->program) {
    c->program(index, c->turns, run);
    c->in_program = true;
  } else {
    got = false;
  }
  pthread_mutex_unlock(&c->lock);
  return got;
}

int guest_run(void) {
  struct vmm_vcpu *v = vmm_vcpu_self();
  CHECK(v && v->index < n_cpus);
  struct fake_cpu *c = &cpu[v->index];
  sigset_t block, old;
  sigemptyset(&block);
  sigaddset(&block, SIGRTMIN);
  int r = -1;
  pthread_sigmask(SIG_BLOCK, &block, &old); /* so that a kick between the look and the sleep is not lost */
  for (;;) {
    if (next_exit(v->index, v->run)) {
      r = 0;
      break;
    }
    struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
    struct timespec at_once = {0};
    bool leave = __atomic_load_n(&v->run->immediate_exit, __ATOMIC_SEQ_CST);
    int n = ppoll(&p, 1, leave ? &at_once : NULL, &old);
    eventfd_t count;
    if (n == 1 && !leave) (void)!eventfd_read(c->wake_fd, &count);
    if (leave || n < 0) {
      errno = EINTR;
      break;
    }
  }
  int err = errno;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  errno = err;
  return r;
}

void guest_make(vmm_vm *vm, unsigned n) {
  CHECK(n <= FAKE_CPUS);
  n_cpus = n;
  for (unsigned i = 0; i < n; i++) {
    cpu[i] = (struct fake_cpu){.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    CHECK(cpu[i].wake_fd >= 0);
    pthread_mutex_init(&cpu[i].lock, NULL);
    pthread_cond_init(&cpu[i].turned, NULL);
    sem_init(&cpu[i].done, 0, 0);
    CHECK(vmm_vcpu_new(vm, i, i) >= 0);
  }
}

void guest_start(vmm_vm *vm, unsigned n) {
  guest_make(vm, n);
  EQ(vmm_vcpus_start(vm, n, 0), 0);
}

static void request(unsigned index, const struct kvm_run *run, uint64_t value, uint32_t size) {
  struct fake_cpu *c = &cpu[index];
  pthread_mutex_lock(&c->lock);
  CHECK(!c->has_request && !c->in_flight);
  c->request = *run;
  c->has_request = true;
  c->value = value;
  c->size = size;
  pthread_mutex_unlock(&c->lock);
  CHECK(!eventfd_write(c->wake_fd, 1));
}

void guest_begin(unsigned index, int space, uint64_t addr, uint32_t size, uint64_t value, int is_write) {
  struct kvm_run run = {.exit_reason = space == VMM_PIO ? KVM_EXIT_IO : KVM_EXIT_MMIO};
  if (space == VMM_PIO) {
    CHECK(size <= 4 && addr <= 0xffff);
    run.io.direction = is_write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
    run.io.size = (uint8_t)size;
    run.io.port = (uint16_t)addr;
    run.io.count = 1;
    run.io.data_offset = GUEST_DATA;
  } else {
    run.mmio.phys_addr = addr;
    run.mmio.len = size;
    run.mmio.is_write = is_write != 0;
    memcpy(run.mmio.data, &value, 8);
  }
  request(index, &run, value, size);
}

uint64_t guest_end(unsigned index) {
  while (sem_wait(&cpu[index].done)) CHECK(errno == EINTR);
  return cpu[index].value;
}

uint64_t guest_read(unsigned index, int space, uint64_t addr, uint32_t size) {
  guest_begin(index, space, addr, size, 0, 0);
  return guest_end(index);
}

void guest_write(unsigned index, int space, uint64_t addr, uint32_t size, uint64_t value) {
  guest_begin(index, space, addr, size, value, 1);
  guest_end(index);
}

void guest_exit(unsigned index, const struct kvm_run *run) {
  request(index, run, 0, 0);
}

void guest_program(unsigned index, guest_next next) {
  struct fake_cpu *c = &cpu[index];
  pthread_mutex_lock(&c->lock);
  c->program = next;
  while (!next && c->in_program) pthread_cond_wait(&c->turned, &c->lock);
  pthread_mutex_unlock(&c->lock);
  CHECK(!eventfd_write(c->wake_fd, 1));
}

uint64_t guest_turns(unsigned index) {
  pthread_mutex_lock(&cpu[index].lock);
  uint64_t n = cpu[index].turns;
  pthread_mutex_unlock(&cpu[index].lock);
  return n;
}

void guest_wait_turns(unsigned index, uint64_t more) {
  struct fake_cpu *c = &cpu[index];
  pthread_mutex_lock(&c->lock);
  uint64_t until = c->turns + more;
  while (c->turns < until) pthread_cond_wait(&c->turned, &c->lock);
  pthread_mutex_unlock(&c->lock);
}

void guest_end_all(void) {
  for (unsigned i = 0; i < n_cpus; i++) guest_program(i, NULL);
}

void guest_forget(void) {
  for (unsigned i = 0; i < n_cpus; i++) {
    close(cpu[i].wake_fd);
    pthread_mutex_destroy(&cpu[i].lock);
    pthread_cond_destroy(&cpu[i].turned);
    sem_destroy(&cpu[i].done);
  }
  n_cpus = 0;
}
