/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads: KVM_RUN, and what to do when it returns.
 *
 * To have a vCPU leave the guest: set `request`, then kvm_run.immediate_exit,
 * then signal its thread. The thread clears immediate_exit *before* it reads
 * `request`, so that no kick is lost in between (KVM API, "immediate_exit").
 */
#include "native.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KICK SIGRTMIN

static _Thread_local struct vmm_vcpu *current;

struct vmm_vcpu *vmm_vcpu_self(void) {
  return current;
}

static void on_kick(int signo) {
  (void)signo; /* its only purpose is to interrupt KVM_RUN */
}

int vmm_vcpu_new(vmm_vm *vm, unsigned index, unsigned long id) {
  if (index >= VMM_MAX_VCPUS) return -EINVAL;
  if (vm->vcpu[index]) return -EEXIST;
  struct vmm_vcpu *v = calloc(1, sizeof *v);
  if (!v) return -ENOMEM;
  v->vm = vm;
  v->index = index;
  v->run_size = (size_t)vm->run_size;
  /* KVM has a vCPU for as long as the VM, and no second one of its number: what may fail comes before. */
  v->run = mmap(NULL, v->run_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (v->run == MAP_FAILED) {
    int err = VMM_FAIL(vm, "mmap of kvm_run");
    free(v);
    return err;
  }
  v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
  if (v->fd < 0) {
    int err = VMM_FAIL(vm, "KVM_CREATE_VCPU");
    munmap(v->run, v->run_size);
    free(v);
    return err;
  }
  if (mmap(v->run, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, v->fd, 0) == MAP_FAILED) {
    int err = VMM_FAIL(vm, "mmap of kvm_run");
    munmap(v->run, v->run_size);
    close(v->fd);
    free(v);
    return err;
  }
  v->stats_fd = ioctl(v->fd, KVM_GET_STATS_FD, NULL); /* now: it waits for a vCPU that runs */
  pthread_mutex_lock(&vm->lock);
  vm->vcpu[index] = v;
  if (index >= vm->n_vcpus) vm->n_vcpus = index + 1;
  pthread_mutex_unlock(&vm->lock);
  return v->fd;
}

int vmm_vcpu_fd(vmm_vm *vm, unsigned index) {
  return index < VMM_MAX_VCPUS && vm->vcpu[index] ? vm->vcpu[index]->fd : -ENOENT;
}

/* Host CPUs that the thread may run on. Before it is started. */
int vmm_vcpu_affinity(vmm_vm *vm, unsigned index, const uint16_t *cpus, int n) {
  struct vmm_vcpu *v = index < VMM_MAX_VCPUS ? vm->vcpu[index] : NULL;
  if (!v || n <= 0) return -EINVAL;
  uint16_t *copy = malloc((size_t)n * sizeof *copy);
  if (!copy) return -ENOMEM;
  memcpy(copy, cpus, (size_t)n * sizeof *copy);
  free(v->affinity);
  v->affinity = copy;
  v->affinity_len = n;
  return 0;
}

static int run_once(struct vmm_vcpu *v) {
  int r = ioctl(v->fd, KVM_RUN, 0);
  return r < 0 ? -errno : 0;
}

static void on_exit_reason(struct vmm_vcpu *v);

/* Wait until the VM wants this vCPU to run. False: end the thread. */
static bool park(struct vmm_vcpu *v) {
  vmm_vm *vm = v->vm;
  /* An exit's emulation (a port read, say) is finished only by entering KVM_RUN
   * again: do so without running the guest, so that saved state is whole. */
  __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
  if (v->ran)
    for (int i = 0; i < 64 && !run_once(v); i++) on_exit_reason(v); /* an access may have several parts */
  pthread_mutex_lock(&vm->lock);
  for (;;) {
    atomic_store(&v->request, 0);
    __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    int want = atomic_load(&vm->want);
    if (want == VMM_RUN_STOPPED || v->leave || (want == VMM_RUN_RUNNING && !atomic_load(&vm->halted))) break;
    if (!v->parked) { /* once: the others that are parked are woken by it, and would wake us */
      v->parked = true;
      pthread_cond_broadcast(&vm->cond);
    }
    pthread_cond_wait(&vm->cond, &vm->lock);
  }
  v->parked = false;
  bool go = atomic_load(&vm->want) == VMM_RUN_RUNNING && !v->leave;
  pthread_mutex_unlock(&vm->lock);
  return go;
}

static void give_up(struct vmm_vcpu *v, const char *what, uint64_t a, uint64_t b) {
  vmm_vm *vm = v->vm;
  pthread_mutex_lock(&vm->event_lock);
  snprintf(vm->error, sizeof vm->error, "vCPU %u: %s (0x%llx, 0x%llx)", v->index, what, (unsigned long long)a,
           (unsigned long long)b);
  pthread_mutex_unlock(&vm->event_lock);
  vmm_post_event(vm, VMM_EVENT_ERROR, v->index);
}

static void on_pio(struct vmm_vcpu *v) {
  struct kvm_run *run = v->run;
  uint8_t *data = (uint8_t *)run + run->io.data_offset;
  v->exits[VMM_EXIT_PIO]++;
  for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
    vmm_bus_access(v->vm, VMM_PIO, run->io.port, data, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
}

static void on_system_event(struct vmm_vcpu *v) {
  switch (v->run->system_event.type) {
  case KVM_SYSTEM_EVENT_SHUTDOWN:
    vmm_post_event(v->vm, VMM_EVENT_SHUTDOWN, 0);
    break;
  case KVM_SYSTEM_EVENT_RESET:
    vmm_post_event(v->vm, VMM_EVENT_RESET, 0);
    break;
  case KVM_SYSTEM_EVENT_CRASH:
    vmm_post_event(v->vm, VMM_EVENT_PANIC, 1);
    break;
  default:
    give_up(v, "KVM_EXIT_SYSTEM_EVENT of unknown type", v->run->system_event.type, 0);
  }
}

static void on_exit_reason(struct vmm_vcpu *v) {
  struct kvm_run *run = v->run;
  switch (run->exit_reason) {
  case KVM_EXIT_IO:
    on_pio(v);
    return;
  case KVM_EXIT_MMIO:
    v->exits[VMM_EXIT_MMIO]++;
    if (run->mmio.len <= 8)
      vmm_bus_access(v->vm, VMM_MMIO, run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write);
    return;
  case KVM_EXIT_INTR:
    v->exits[VMM_EXIT_INTR]++;
    return;
  }
  v->exits[VMM_EXIT_OTHER]++;
  switch (run->exit_reason) {
  case KVM_EXIT_SHUTDOWN:
    vmm_post_event(v->vm, VMM_EVENT_TRIPLE, v->index);
    break;
  case KVM_EXIT_SYSTEM_EVENT:
    on_system_event(v);
    break;
  case KVM_EXIT_INTERNAL_ERROR:
    give_up(v,
            run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                ? "KVM_EXIT_INTERNAL_ERROR: KVM could not emulate an instruction"
                : "KVM_EXIT_INTERNAL_ERROR",
            run->internal.suberror, run->internal.ndata > 1 ? run->internal.data[1] : 0);
    break;
  case KVM_EXIT_ARM_NISV: /* a load or store of two registers, or with write-back, to a device */
    give_up(v, "KVM_EXIT_ARM_NISV: KVM does not decode the instruction that accessed a device", run->arm_nisv.esr_iss,
            run->arm_nisv.fault_ipa);
    break;
  case KVM_EXIT_FAIL_ENTRY:
    give_up(v, "KVM_EXIT_FAIL_ENTRY", run->fail_entry.hardware_entry_failure_reason, 0);
    break;
  default:
    give_up(v, "unknown KVM exit", run->exit_reason, 0);
  }
}

static uint64_t in_ns(const struct timespec *t) {
  return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static void *vcpu_main(void *arg) {
  struct vmm_vcpu *v = arg;
  vmm_vm *vm = v->vm;
  current = v;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, KICK);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  atomic_store(&v->tid, (int)syscall(SYS_gettid));

  bool first = v->index == 0;
  while (!atomic_load(&v->request) || park(v)) {
    if (atomic_load_explicit(&v->nmi, memory_order_relaxed) && atomic_exchange(&v->nmi, false))
      ioctl(v->fd, KVM_NMI, 0);
    if (first && !atomic_load(&vm->t_first_run)) atomic_store(&vm->t_first_run, vmm_now_ns());
    v->ran = true;
    int err = run_once(v);
    if (first && err != -EINTR) {
      first = false;
      if (!atomic_load(&vm->t_first_exit)) atomic_store(&vm->t_first_exit, vmm_now_ns());
    }
    if (!err)
      on_exit_reason(v);
    else if (err == -EINTR)
      v->exits[VMM_EXIT_INTR]++;
    else if (err != -EAGAIN) /* EAGAIN: a vCPU that waits for its INIT was woken */
      give_up(v, strerror(-err), (uint64_t)-err, 0);
  }
  struct timespec used;
  if (!clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used)) atomic_fetch_add(&v->cpu_ns, in_ns(&used));
  pthread_mutex_lock(&vm->lock);
  v->parked = true;
  pthread_cond_broadcast(&vm->cond);
  pthread_mutex_unlock(&vm->lock);
  return NULL;
}

static void kick(struct vmm_vcpu *v) {
  atomic_store(&v->request, 1);
  __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
  int tid = atomic_load(&v->tid);
  if (tid && v != current) syscall(SYS_tgkill, getpid(), tid, KICK);
}

static void kick_all(vmm_vm *vm) {
  for (unsigned i = 0; i < vm->n_vcpus; i++)
    if (vm->vcpu[i]) kick(vm->vcpu[i]);
}

void vmm_vcpus_halt(vmm_vm *vm) {
  atomic_store(&vm->halted, true);
  kick_all(vm);
}

/* With all signals blocked: the thread has none but KICK. */
static int start_thread(struct vmm_vcpu *v, bool look) {
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 256 << 10);
  if (v->affinity_len) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int c = 0; c < v->affinity_len; c++)
      if (v->affinity[c] < CPU_SETSIZE) CPU_SET(v->affinity[c], &set);
    pthread_attr_setaffinity_np(&attr, sizeof set, &set);
  }
  atomic_store(&v->request, (uint32_t)look);
  atomic_store(&v->tid, -1);
  int err = -pthread_create(&v->thread, &attr, vcpu_main, v);
  pthread_attr_destroy(&attr);
  if (err) {
    v->vm->failed = "pthread_create for a vCPU (are the CPUs of its affinity online?)";
    atomic_store(&v->tid, 0);
    return err;
  }
  char name[16];
  snprintf(name, sizeof name, "vcpu%u", v->index);
  pthread_setname_np(v->thread, name); /* here: who finds the machine started finds its threads by name */
  return 0;
}

/* Make the threads of the first n. With `paused` they wait for vmm_vcpus_resume(). */
int vmm_vcpus_start(vmm_vm *vm, unsigned n, int paused) {
  struct sigaction sa = {.sa_handler = on_kick};
  sigaction(KICK, &sa, NULL);
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int err = 0;
  atomic_store(&vm->want, paused ? VMM_RUN_PAUSED : VMM_RUN_RUNNING);
  for (unsigned i = 0; i < n && i < vm->n_vcpus && !err; i++) {
    struct vmm_vcpu *v = vm->vcpu[i];
    if (v && !atomic_load(&v->tid)) err = start_thread(v, paused);
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return err;
}

/* The thread of a vCPU that came after vmm_vcpus_start(): it first looks whether the others run. */
int vmm_vcpu_start(vmm_vm *vm, unsigned index) {
  struct vmm_vcpu *v = index < VMM_MAX_VCPUS ? vm->vcpu[index] : NULL;
  if (!v || atomic_load(&v->tid)) return -EINVAL;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int err = start_thread(v, true);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return err;
}

/* End its thread. KVM keeps the vCPU until the VM ends, so that the same can be started again. Not from a vCPU. */
void vmm_vcpu_stop(vmm_vm *vm, unsigned index) {
  struct vmm_vcpu *v = index < VMM_MAX_VCPUS ? vm->vcpu[index] : NULL;
  if (!v || !atomic_load(&v->tid)) return;
  pthread_mutex_lock(&vm->lock);
  v->leave = true;
  kick(v);
  pthread_cond_broadcast(&vm->cond);
  pthread_mutex_unlock(&vm->lock);
  pthread_join(v->thread, NULL);
  pthread_mutex_lock(&vm->lock);
  atomic_store(&v->tid, 0);
  atomic_store(&v->nmi, false);
  v->leave = v->parked = v->ran = false;
  pthread_mutex_unlock(&vm->lock);
}

/* A non-maskable interrupt on every vCPU; those that are paused get it when they go on. */
int vmm_vcpus_nmi(vmm_vm *vm) {
  if (vmm_cap(vm, KVM_CAP_USER_NMI) <= 0) {
    errno = ENOTSUP;
    return VMM_FAIL(vm, "KVM_NMI");
  }
  for (unsigned i = 0; i < vm->n_vcpus; i++) {
    struct vmm_vcpu *v = vm->vcpu[i];
    if (!v || !atomic_load(&v->tid)) continue;
    atomic_store(&v->nmi, true);
    kick(v);
  }
  return 0;
}

static void wait_parked(vmm_vm *vm) {
  for (unsigned i = 0; i < vm->n_vcpus; i++)
    while (vm->vcpu[i] && atomic_load(&vm->vcpu[i]->tid) && !vm->vcpu[i]->parked)
      pthread_cond_wait(&vm->cond, &vm->lock);
}

/* Returns once no vCPU is in the guest or in a handler. */
int vmm_vcpus_pause(vmm_vm *vm) {
  pthread_mutex_lock(&vm->lock);
  if (atomic_load(&vm->want) == VMM_RUN_RUNNING) atomic_store(&vm->want, VMM_RUN_PAUSED);
  kick_all(vm);
  wait_parked(vm);
  pthread_mutex_unlock(&vm->lock);
  return 0;
}

int vmm_vcpus_resume(vmm_vm *vm) {
  pthread_mutex_lock(&vm->lock);
  bool ok = atomic_load(&vm->want) == VMM_RUN_PAUSED && !atomic_load(&vm->halted);
  if (ok) atomic_store(&vm->want, VMM_RUN_RUNNING);
  pthread_cond_broadcast(&vm->cond);
  pthread_mutex_unlock(&vm->lock);
  return ok ? 0 : -EINVAL;
}

void vmm_vcpus_stop(vmm_vm *vm) {
  pthread_mutex_lock(&vm->lock);
  atomic_store(&vm->want, VMM_RUN_STOPPED);
  kick_all(vm);
  pthread_cond_broadcast(&vm->cond);
  pthread_mutex_unlock(&vm->lock);
  for (unsigned i = 0; i < vm->n_vcpus; i++)
    if (vm->vcpu[i] && atomic_load(&vm->vcpu[i]->tid)) {
      pthread_join(vm->vcpu[i]->thread, NULL);
      atomic_store(&vm->vcpu[i]->tid, 0);
    }
}

void vmm_vcpus_free(vmm_vm *vm) {
  vmm_vcpus_stop(vm);
  for (unsigned i = 0; i < vm->n_vcpus; i++) {
    struct vmm_vcpu *v = vm->vcpu[i];
    if (!v) continue;
    munmap(v->run, v->run_size);
    if (v->stats_fd >= 0) close(v->stats_fd);
    close(v->fd);
    free(v->affinity);
    free(v);
    vm->vcpu[i] = NULL;
  }
  vm->n_vcpus = 0;
}

uint64_t vmm_vcpu_exits(vmm_vm *vm, unsigned index, unsigned kind) {
  return index < VMM_MAX_VCPUS && vm->vcpu[index] && kind < 8 ? vm->vcpu[index]->exits[kind] : 0;
}

/* CPU time of the vCPU's threads, ns: in the guest and in handlers. From the thread that starts and stops vCPUs. */
uint64_t vmm_vcpu_cpu_ns(vmm_vm *vm, unsigned index) {
  struct vmm_vcpu *v = index < VMM_MAX_VCPUS ? vm->vcpu[index] : NULL;
  clockid_t clock;
  struct timespec used;
  if (!v) return 0;
  uint64_t before = atomic_load(&v->cpu_ns); /* if the thread ends now, the next one asked counts it */
  bool runs = atomic_load(&v->tid) && !pthread_getcpuclockid(v->thread, &clock) && !clock_gettime(clock, &used);
  return before + (runs ? in_ns(&used) : 0);
}

/* Where KVM's own statistics of the vCPU are read (KVM API, KVM_GET_STATS_FD), at any time; -1: nowhere. */
int vmm_vcpu_stats_fd(vmm_vm *vm, unsigned index) {
  return index < VMM_MAX_VCPUS && vm->vcpu[index] ? vm->vcpu[index]->stats_fd : -1;
}
