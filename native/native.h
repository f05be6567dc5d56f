/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the native core share. The public half is vmmcore.h. */
#ifndef VMM_NATIVE_H
#define VMM_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmmcore.h"

#define VMM_MAX_VCPUS 255
#define VMM_MAX_LOOPS 16
#define VMM_MAX_SEGMENTS 96
#define VMM_MAX_GSI 4096
#define VMM_EVENTS 256
#define VMM_NO_ADDR UINT64_MAX

/* --- memory.c --- */
enum {
  VMM_MEM_SHARED = 1,    /* a memfd that other processes can map, instead of private memory */
  VMM_MEM_HUGE = 2,      /* hugetlbfs pages */
  VMM_MEM_PREFAULT = 4,  /* populate now */
  VMM_MEM_MERGEABLE = 8, /* KSM */
  VMM_MEM_THP = 16,      /* transparent huge pages */
  VMM_MEM_LAZY = 32,     /* huge pages are not reserved: not all of it will be used */
};

struct vmm_slot {
  uint64_t gpa, size;
  uint8_t *hva;
  size_t mapped; /* bytes of the mapping at map_base, alignment slack included */
  void *map_base;
  int memfd; /* -1: private */
  uint32_t id, flags;
  _Atomic bool logging;
  _Atomic(uint64_t) *dirty; /* pages that the VMM wrote; made at the first vmm_mem_log(), freed with the slot */
};

struct vmm_map {
  struct vmm_map *older;
  uint32_t n;
  struct vmm_slot *slot[]; /* ascending by gpa */
};

/* --- bus.c --- */
struct vmm_region {
  uint64_t base, len;
  vmm_io_fn fn;
  void *opaque;
};

struct vmm_table {
  uint32_t n;
  struct vmm_region r[]; /* ascending, disjoint */
};

struct vmm_retired {
  struct vmm_retired *next;
  struct vmm_table *table;
  uint32_t seq[]; /* each vCPU's epoch when the table was replaced */
};

struct vmm_bus {
  _Atomic(struct vmm_table *) table;
  struct vmm_retired *retired;
};

/* --- irq.c --- */
struct vmm_route {
  uint8_t type; /* 0: none, else KVM_IRQ_ROUTING_* */
  uint32_t chip, pin;
  uint64_t addr;
  uint32_t data, device; /* of a message; the device id only where the interrupt controller wants one */
};

struct vmm_irqs {
  pthread_mutex_t lock;
  struct vmm_route *route;    /* [VMM_MAX_GSI] */
  uint64_t *level;            /* [VMM_MAX_GSI] sources that hold the line up; made when first used */
  uint32_t first_msi, n_used; /* GSIs below first_msi are pins */
  uint32_t line_base;         /* what KVM_IRQ_LINE calls GSI 0 */
  bool device_ids;            /* messages carry the id of who sends them (GICv3 ITS) */
  bool dirty;
  uint64_t commits; /* KVM_SET_GSI_ROUTING calls, a counter */
};

/* --- vcpu.c --- */
enum { VMM_RUN_STOPPED, VMM_RUN_PAUSED, VMM_RUN_RUNNING };

struct vmm_vcpu {
  vmm_vm *vm;
  unsigned index;
  int fd;
  struct kvm_run *run;
  size_t run_size;
  pthread_t thread;
  _Atomic int tid;          /* 0: no thread */
  bool parked;              /* under vm->lock */
  bool ran;                 /* its thread has entered KVM_RUN; the thread's own */
  bool leave;               /* the thread is to end; under vm->lock */
  _Atomic bool nmi;         /* raise one before the guest goes on */
  _Atomic uint32_t request; /* non-zero: leave KVM_RUN and look at vm->want */
  _Atomic uint32_t seq;     /* epoch: odd while a bus handler runs on this vCPU */
  uint64_t exits[8];        /* by VMM_EXIT_* */
  _Atomic uint64_t cpu_ns;  /* of threads that have ended */
  int stats_fd;             /* KVM's own counters of it; -1: an older KVM */
  int affinity_len;
  uint16_t *affinity;
};

enum { VMM_EXIT_PIO, VMM_EXIT_MMIO, VMM_EXIT_INTR, VMM_EXIT_OTHER };

struct vmm_event {
  uint32_t kind;
  uint64_t arg;
  uint64_t time_ns;
};

struct vmm_vm {
  int kvm_fd, fd, poll_fd, event_fd;
  const char *failed; /* the ioctl or call that the last error came from */
  pthread_mutex_t lock;     /* vCPU states, memory map changes, loops */
  pthread_cond_t cond;
  pthread_mutex_t bus_lock; /* writers of both bus tables */
  _Atomic uint32_t sync_waiters;
  _Atomic int want;         /* VMM_RUN_*; written under lock */
  _Atomic bool halted;      /* a terminal event: no vCPU enters the guest again */
  struct vmm_vcpu *_Atomic vcpu[VMM_MAX_VCPUS]; /* never freed while the VM lives */
  _Atomic unsigned n_vcpus;
  int run_size;
  _Atomic(struct vmm_map *) map;
  _Atomic bool logging; /* some slot may be logging writes */
  uint64_t slots_used[8]; /* bitmap of KVM memory slot ids */
  struct vmm_bus bus[2];
  uint64_t ports_at; /* where ports are in memory; VMM_NO_ADDR: the CPU has instructions for them */
  struct vmm_irqs irq;
  vmm_loop *loops[VMM_MAX_LOOPS];
  struct vmm_pci_segment *segment[VMM_MAX_SEGMENTS];
  struct vmm_ged *ged;
  struct vmm_pci_hotplug *pci_hotplug;
  pthread_mutex_t event_lock;
  struct vmm_event event[VMM_EVENTS];
  unsigned event_head, event_n;
  uint64_t events_lost;
  bool devices_lost; /* a VMM_EVENT_DEVICE was among them */
  _Atomic uint64_t t_first_run, t_first_exit; /* ns, vCPU 0 */
  struct vmm_counter *counters; /* newest first; under event_lock */
  uint64_t log_tokens, log_time;
  int log_level;
  char error[256]; /* what KVM said when it gave up on a vCPU */
};

#define VMM_FAIL(vm, what) ((vm)->failed = (what), -errno)

/* vm.c */
extern const struct vmm_api vmm_api_table;
uint64_t vmm_now_ns(void);
void vmm_post_event(vmm_vm *vm, uint32_t kind, uint64_t arg);
void vmm_log(vmm_vm *vm, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

vmm_vm *vmm_vm_new(const char *device, unsigned long type, int *err, const char **what);
void vmm_vm_free(vmm_vm *vm);
const struct vmm_api *vmm_api_get(void);
const char *vmm_failed(vmm_vm *vm);
const char *vmm_error_text(vmm_vm *vm);
int vmm_event_next(vmm_vm *vm, struct vmm_event *out);
int vmm_poll_add(vmm_vm *vm, int fd, uint32_t events);
int vmm_poll_del(vmm_vm *vm, int fd);
int vmm_poll_wait(vmm_vm *vm, int timeout_ms, uint32_t *events);
void vmm_set_log_level(vmm_vm *vm, int level);
uint64_t vmm_first_run(vmm_vm *vm);
uint64_t vmm_first_exit(vmm_vm *vm);

/* kvm.c */
const char *vmm_missing_cap(int kvm_fd);
int vmm_cap(vmm_vm *vm, int cap);
int vmm_enable_cap(vmm_vm *vm, int cap, uint64_t arg);
int vmm_device_new(vmm_vm *vm, uint32_t type);
int vmm_attr_has(vmm_vm *vm, int fd, uint32_t group, uint64_t name);
int vmm_attr_set(vmm_vm *vm, int fd, uint32_t group, uint64_t name, const void *value);
int vmm_attr_get(vmm_vm *vm, int fd, uint32_t group, uint64_t name, void *value);

/* process.c */
int vmm_signals(void);
int vmm_signal_next(int fd);
int vmm_parent_death(int signo);

/* memory.c */
int vmm_mem_add(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size);
/* As vmm_mem_add(), backed by a file (fd -1: none; it stays the caller's) and by the host's NUMA node (-1: any). */
int vmm_mem_add_from(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd, int node);
struct vmm_slot *vmm_mem_prepare(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd,
                                 int node, int *err);
int vmm_mem_populate(struct vmm_slot *s, uint64_t at, uint64_t len);
int vmm_mem_place(vmm_vm *vm, struct vmm_slot *s);
void vmm_mem_drop(struct vmm_slot *s);
int vmm_mem_del(vmm_vm *vm, uint64_t gpa);
void *vmm_mem(vmm_vm *vm, uint64_t gpa, uint64_t len);
void *vmm_mem_part(vmm_vm *vm, uint64_t gpa, uint64_t *len);
void vmm_mem_dirty_host(vmm_vm *vm, const void *host, uint64_t len);
int vmm_mem_slot(vmm_vm *vm, int *slot, uint64_t gpa, uint64_t size, void *host, uint32_t flags);
void vmm_mem_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len);
int vmm_mem_load(vmm_vm *vm, uint64_t gpa, int fd, uint64_t offset, uint64_t size);
int vmm_mem_write(vmm_vm *vm, uint64_t gpa, const void *data, uint64_t size);
int vmm_mem_fd(vmm_vm *vm, uint64_t gpa, uint64_t *offset);
int vmm_mem_log(vmm_vm *vm, int on);
int64_t vmm_mem_fetch_log(vmm_vm *vm, uint64_t gpa, uint64_t *bitmap, uint64_t words);
unsigned vmm_mem_slots(vmm_vm *vm);
void vmm_mem_free(vmm_vm *vm);

/* bus.c */
int vmm_bus_init(vmm_vm *vm);
void vmm_bus_free(vmm_vm *vm);
int vmm_bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque);
int vmm_bus_del(vmm_vm *vm, int space, uint64_t base);
/* Swap in one step; from or to may be VMM_NO_ADDR. Does not wait for running handlers. */
int vmm_bus_move(vmm_vm *vm, int space, uint64_t from, uint64_t to, uint64_t len, vmm_io_fn fn, void *opaque);
int vmm_bus_ports(vmm_vm *vm, uint64_t base, uint64_t len);
void vmm_bus_sync(vmm_vm *vm);
void vmm_bus_access(vmm_vm *vm, int space, uint64_t addr, void *data, uint32_t size, int is_write);

/* irq.c */
int vmm_irq_init(vmm_vm *vm);
void vmm_irq_free(vmm_vm *vm);
int vmm_irq_chip(vmm_vm *vm, uint32_t chip, uint32_t pins);
void vmm_irq_model(vmm_vm *vm, uint32_t line_base, int device_ids);
int vmm_irq_alloc(vmm_vm *vm);
void vmm_irq_release(vmm_vm *vm, uint32_t gsi);
int vmm_irq_msi(vmm_vm *vm, uint32_t gsi, uint64_t addr, uint32_t data, uint32_t device);
int vmm_irq_commit(vmm_vm *vm);
int vmm_irq_assign(vmm_vm *vm, uint32_t gsi, int fd, int assign);
int vmm_irqfd_open(vmm_vm *vm, uint32_t gsi);
void vmm_irqfd_close(vmm_vm *vm, uint32_t gsi, int fd);
int vmm_irq_level(vmm_vm *vm, uint32_t gsi, unsigned source, int level);
int vmm_ioeventfd(vmm_vm *vm, int space, uint64_t addr, uint32_t len, int fd, int assign);
uint64_t vmm_irq_commits(vmm_vm *vm);

/* vcpu.c */
int vmm_vcpu_new(vmm_vm *vm, unsigned index, unsigned long id);
int vmm_vcpu_fd(vmm_vm *vm, unsigned index);
int vmm_vcpu_affinity(vmm_vm *vm, unsigned index, const uint16_t *cpus, int n);
int vmm_vcpus_start(vmm_vm *vm, unsigned n, int paused);
int vmm_vcpu_start(vmm_vm *vm, unsigned index); /* one that came later; it runs when the others do */
void vmm_vcpu_stop(vmm_vm *vm, unsigned index); /* end and join its thread; it may be started again */
int vmm_vcpus_nmi(vmm_vm *vm);
int vmm_vcpus_pause(vmm_vm *vm);
int vmm_vcpus_resume(vmm_vm *vm);
void vmm_vcpus_halt(vmm_vm *vm); /* ask all to park; does not wait */
void vmm_vcpus_stop(vmm_vm *vm); /* end and join all threads */
void vmm_vcpus_free(vmm_vm *vm);
uint64_t vmm_vcpu_exits(vmm_vm *vm, unsigned index, unsigned kind);
uint64_t vmm_vcpu_cpu_ns(vmm_vm *vm, unsigned index);
int vmm_vcpu_stats_fd(vmm_vm *vm, unsigned index);
struct vmm_vcpu *vmm_vcpu_self(void);

/* hotplug.c */
typedef struct vmm_hotplug vmm_hotplug;
enum { VMM_HOTPLUG_CPUS, VMM_HOTPLUG_MEMORY };
vmm_hotplug *vmm_hotplug_new(vmm_vm *vm, int kind, uint64_t address, unsigned n, int *err);
void vmm_hotplug_free(vmm_hotplug *h);
int vmm_hotplug_insert(vmm_hotplug *h, unsigned index, uint64_t base, uint64_t size, int announce);
int vmm_hotplug_remove(vmm_hotplug *h, unsigned index);
int vmm_hotplug_keep(vmm_hotplug *h, unsigned index);
int vmm_hotplug_leaving(vmm_hotplug *h, unsigned index);
int vmm_hotplug_gone(vmm_hotplug *h);

/* loop.c */
vmm_loop *vmm_loop_get(vmm_vm *vm, unsigned index);
int vmm_loop_add(vmm_loop *loop, int fd, uint32_t events, vmm_fd_fn fn, void *opaque);
int vmm_loop_mod(vmm_loop *loop, int fd, uint32_t events);
int vmm_loop_del(vmm_loop *loop, int fd);
void vmm_loops_free(vmm_vm *vm);

/* chardev.c */
vmm_chardev *vmm_chardev_open(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx, void *opaque);
size_t vmm_chardev_write(vmm_chardev *dev, const uint8_t *data, size_t len);
size_t vmm_chardev_room(vmm_chardev *dev);
void vmm_chardev_kick(vmm_chardev *dev);
void vmm_chardev_close(vmm_chardev *dev);

/* pci.c, msix.c */
enum { VMM_BAR_IO = 1, VMM_BAR_64 = 4, VMM_BAR_PREFETCH = 8 };

int vmm_pci_segment_add(vmm_vm *vm, unsigned id, uint64_t ecam, uint64_t mmio32, uint64_t mmio32_size,
                        uint64_t mmio64, uint64_t mmio64_size, uint64_t pio, uint64_t pio_size);
vmm_pci_dev *vmm_pci_new(vmm_vm *vm);
int vmm_pci_set(vmm_pci_dev *dev, uint32_t offset, uint32_t size, uint32_t value, uint32_t wmask, uint32_t w1c);
uint32_t vmm_pci_get(vmm_pci_dev *dev, uint32_t offset, uint32_t size);
int vmm_pci_add_cap(vmm_pci_dev *dev, uint8_t id, const uint8_t *body, const uint8_t *wmask, uint32_t len);
int vmm_pci_add_bar(vmm_pci_dev *dev, unsigned index, uint64_t size, uint32_t flags, vmm_io_fn fn, void *opaque);
int vmm_pci_bar_first(vmm_pci_dev *dev, unsigned index, uint64_t at);
int vmm_pci_bar_ioeventfd(vmm_pci_dev *dev, unsigned index, uint64_t offset, uint32_t len, int fd, int assign);
uint64_t vmm_pci_bar_base(vmm_pci_dev *dev, unsigned index); /* where it decodes now, or VMM_NO_ADDR */
int vmm_pci_add_msix(vmm_pci_dev *dev, unsigned bar, uint64_t table, uint64_t pba, unsigned vectors);
int vmm_pci_msix_signal(vmm_pci_dev *dev, unsigned vector);
int vmm_pci_msix_fd(vmm_pci_dev *dev, unsigned vector);
void vmm_pci_on_access(vmm_pci_dev *dev, vmm_pci_access_fn fn, void *opaque);
void vmm_pci_poke(vmm_pci_dev *dev, uint32_t offset, const uint8_t *data, uint32_t size);
int vmm_pci_attach(vmm_pci_dev *dev, unsigned segment, unsigned slot);
void vmm_pci_detach(vmm_pci_dev *dev);
void vmm_pci_free(vmm_pci_dev *dev);
void vmm_pci_reset(vmm_pci_dev *dev);
int vmm_pci_save(vmm_pci_dev *dev, uint8_t *out, size_t cap);
int vmm_pci_restore(vmm_pci_dev *dev, const uint8_t *in, size_t len);
void vmm_pci_segments_free(vmm_vm *vm);
/* The line that the device's INTA drives, and its level. */
void vmm_pci_set_intx(vmm_pci_dev *dev, uint32_t gsi);
void vmm_pci_intx(vmm_pci_dev *dev, int level);
int vmm_pci_msix_enabled(vmm_pci_dev *dev);
/* Back a BAR with host memory instead of a handler. Before attach. */
int vmm_pci_bar_memory(vmm_pci_dev *dev, unsigned index, void *hva);

/* pci_hotplug.c */
int vmm_pci_hotplug_new(vmm_vm *vm, uint64_t address);
void vmm_pci_hotplug_free(vmm_vm *vm);
int vmm_pci_plug(vmm_pci_dev *dev);
int vmm_pci_unplug(vmm_pci_dev *dev);
void vmm_pci_vanish(vmm_pci_dev *dev);
int vmm_pci_ejected(vmm_vm *vm);

/* ged.c */
int vmm_ged_new(vmm_vm *vm, uint64_t address, uint32_t gsi);
int vmm_ged_notify(vmm_vm *vm, uint32_t bits);
uint32_t vmm_ged_pending(vmm_vm *vm);
void vmm_ged_free(vmm_vm *vm);

/* queue.c, virtio.c; the queue_* of vmmcore.h are there explained */
typedef struct vmm_virtio vmm_virtio;
typedef int (*vmm_features_fn)(void *opaque, uint64_t features);
int vmm_queue_pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap);
void vmm_queue_unpop(vmm_queue *q, const struct vmm_chain *chain);
void vmm_queue_push(vmm_queue *q, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written);
int vmm_queue_flush(vmm_queue *q);
int vmm_queue_wait(vmm_queue *q);
void vmm_queue_quiet(vmm_queue *q);
void vmm_queue_fail(vmm_queue *q, const char *why);
uint32_t vmm_queue_size(vmm_queue *q);
uint64_t vmm_queue_features(vmm_queue *q);
vmm_loop *vmm_queue_loop(vmm_queue *q);
int vmm_queue_handle(vmm_queue *q, vmm_queue_fn fn, void *opaque);
int vmm_queue_serve(vmm_queue *q, vmm_request_fn fn, void *opaque);
void vmm_queue_again(vmm_queue *q);
int vmm_queue_handled(vmm_queue *q);
void vmm_queue_kicked(vmm_queue *q);
void vmm_queue_counts(vmm_queue *q, uint64_t *out);
void vmm_queue_addresses(vmm_queue *q, uint64_t *out);
int vmm_queue_kick_fd(vmm_queue *q);
int vmm_queue_call_fd(vmm_queue *q);
uint32_t vmm_queue_base(vmm_queue *q);
void vmm_queue_set_base(vmm_queue *q, uint32_t base);

vmm_virtio *vmm_virtio_new(vmm_vm *vm, vmm_pci_dev *pci, uint64_t token, unsigned n, const uint16_t *sizes,
                           uint64_t offered, unsigned first_loop, unsigned loops, unsigned group);
void vmm_virtio_free(vmm_virtio *v);
void vmm_virtio_io(void *opaque, uint64_t at, void *data, uint32_t size, int is_write);
void vmm_virtio_place(vmm_virtio *v, unsigned vectors, uint32_t window);
int vmm_virtio_require(vmm_virtio *v, unsigned bit, uint64_t mask);
void vmm_virtio_check(vmm_virtio *v, vmm_features_fn fn, void *opaque);
vmm_queue *vmm_virtio_queue(vmm_virtio *v, unsigned i);
uint64_t vmm_virtio_features(vmm_virtio *v);
int vmm_virtio_want(vmm_virtio *v);
int vmm_virtio_start(vmm_virtio *v);
void vmm_virtio_quiesce(vmm_virtio *v);
void vmm_virtio_settle(vmm_virtio *v);
void vmm_virtio_fail(vmm_virtio *v, const char *why);
const char *vmm_virtio_why(vmm_virtio *v);
int vmm_virtio_config_init(vmm_virtio *v, const uint8_t *data, uint32_t len, const uint8_t *mask, uint32_t mask_len);
void vmm_virtio_config_watch(vmm_virtio *v);
int vmm_virtio_config_set(vmm_virtio *v, uint32_t at, const uint8_t *data, uint32_t len, int notify);
int vmm_queue_config(vmm_queue *q, uint32_t at, const void *data, uint32_t len, int notify);
int vmm_virtio_config_read(vmm_virtio *v, uint8_t *out, uint32_t cap);
size_t vmm_virtio_state_size(vmm_virtio *v);
void vmm_virtio_save(vmm_virtio *v, uint8_t *out);
int vmm_virtio_restore(vmm_virtio *v, const uint8_t *in, size_t len);
void *vmm_shared_map(int fd, uint64_t size);
int vmm_shared_place(void *at, int fd, uint64_t size);
void vmm_shared_unmap(void *at, uint64_t size);

/* counters.c */
uint64_t *vmm_counter(vmm_vm *vm, const char *device, const char *name);
int vmm_counter_next(vmm_vm *vm, unsigned index, const char **device, const char **name, uint64_t *value);
void vmm_counters_forget(vmm_vm *vm, const char *device);
void vmm_counters_free(vmm_vm *vm);

#endif
