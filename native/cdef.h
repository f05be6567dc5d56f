/* SPDX-License-Identifier: Apache-2.0 */
/* What Python sees of the core (cffi). The comments are in native.h. */

typedef struct vmm_vm vmm_vm;
typedef struct vmm_loop vmm_loop;
typedef struct vmm_pci_dev vmm_pci_dev;
typedef void (*vmm_pci_access_fn)(void *opaque, uint32_t offset, uint32_t size, int is_write);
typedef void (*vmm_io_fn)(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write);

struct vmm_event {
  uint32_t kind;
  uint64_t arg;
  uint64_t time_ns;
  ...;
};

vmm_vm *vmm_vm_new(const char *device, unsigned long type, int *err, const char **what);
void vmm_vm_free(vmm_vm *vm);
const void *vmm_api_get(void);
const char *vmm_failed(vmm_vm *vm);
const char *vmm_error_text(vmm_vm *vm);
int vmm_cap(vmm_vm *vm, int cap);
int vmm_enable_cap(vmm_vm *vm, int cap, uint64_t arg);
int vmm_device_new(vmm_vm *vm, uint32_t type);
int vmm_attr_has(vmm_vm *vm, int fd, uint32_t group, uint64_t name);
int vmm_attr_set(vmm_vm *vm, int fd, uint32_t group, uint64_t name, const void *value);
int vmm_attr_get(vmm_vm *vm, int fd, uint32_t group, uint64_t name, void *value);
int vmm_event_next(vmm_vm *vm, struct vmm_event *out);
void vmm_post_event(vmm_vm *vm, uint32_t kind, uint64_t arg);
int vmm_poll_add(vmm_vm *vm, int fd, uint32_t events);
int vmm_poll_del(vmm_vm *vm, int fd);
int vmm_poll_wait(vmm_vm *vm, int timeout_ms, uint32_t *events);
void vmm_set_log_level(vmm_vm *vm, int level);
uint64_t vmm_now_ns(void);
uint64_t vmm_first_run(vmm_vm *vm);
uint64_t vmm_first_exit(vmm_vm *vm);

int vmm_signals(void);
int vmm_signal_next(int fd);
int vmm_parent_death(int signo);

int vmm_mem_add(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size);
int vmm_mem_add_from(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd, int node);
struct vmm_slot *vmm_mem_prepare(vmm_vm *vm, uint64_t gpa, uint64_t size, uint32_t flags, uint64_t page_size, int fd,
                                 int node, int *err);
int vmm_mem_populate(struct vmm_slot *s, uint64_t at, uint64_t len);
int vmm_mem_place(vmm_vm *vm, struct vmm_slot *s);
void vmm_mem_drop(struct vmm_slot *s);
int vmm_mem_del(vmm_vm *vm, uint64_t gpa);
void *vmm_mem(vmm_vm *vm, uint64_t gpa, uint64_t len);
void vmm_mem_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len);
int vmm_mem_load(vmm_vm *vm, uint64_t gpa, int fd, uint64_t offset, uint64_t size);
int vmm_mem_write(vmm_vm *vm, uint64_t gpa, const void *data, uint64_t size);
int vmm_mem_fd(vmm_vm *vm, uint64_t gpa, uint64_t *offset);
int vmm_mem_slot(vmm_vm *vm, int *slot, uint64_t gpa, uint64_t size, void *host, uint32_t flags);
unsigned vmm_mem_slots(vmm_vm *vm);
int vmm_mem_log(vmm_vm *vm, int on);
int64_t vmm_mem_fetch_log(vmm_vm *vm, uint64_t gpa, uint64_t *bitmap, uint64_t words);

int vmm_bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque);
int vmm_bus_del(vmm_vm *vm, int space, uint64_t base);
int vmm_bus_ports(vmm_vm *vm, uint64_t base, uint64_t len);

int vmm_irq_chip(vmm_vm *vm, uint32_t chip, uint32_t pins);
void vmm_irq_model(vmm_vm *vm, uint32_t line_base, int device_ids);
int vmm_irqfd_open(vmm_vm *vm, uint32_t gsi);
void vmm_irqfd_close(vmm_vm *vm, uint32_t gsi, int fd);
int vmm_irq_level(vmm_vm *vm, uint32_t gsi, unsigned source, int level);
int vmm_ioeventfd(vmm_vm *vm, int space, uint64_t addr, uint32_t len, int fd, int assign);
uint64_t vmm_irq_commits(vmm_vm *vm);

int vmm_vcpu_new(vmm_vm *vm, unsigned index, unsigned long id);
int vmm_vcpu_fd(vmm_vm *vm, unsigned index);
int vmm_vcpu_affinity(vmm_vm *vm, unsigned index, const uint16_t *cpus, int n);
int vmm_vcpus_start(vmm_vm *vm, unsigned n, int paused);
int vmm_vcpu_start(vmm_vm *vm, unsigned index);
void vmm_vcpu_stop(vmm_vm *vm, unsigned index);
int vmm_vcpus_nmi(vmm_vm *vm);
int vmm_vcpus_pause(vmm_vm *vm);
int vmm_vcpus_resume(vmm_vm *vm);
void vmm_vcpus_stop(vmm_vm *vm);
uint64_t vmm_vcpu_exits(vmm_vm *vm, unsigned index, unsigned kind);
uint64_t vmm_vcpu_cpu_ns(vmm_vm *vm, unsigned index);
int vmm_vcpu_stats_fd(vmm_vm *vm, unsigned index);

typedef struct vmm_hotplug vmm_hotplug;
vmm_hotplug *vmm_hotplug_new(vmm_vm *vm, int kind, uint64_t address, unsigned n, int *err);
void vmm_hotplug_free(vmm_hotplug *h);
int vmm_hotplug_insert(vmm_hotplug *h, unsigned index, uint64_t base, uint64_t size, int announce);
int vmm_hotplug_remove(vmm_hotplug *h, unsigned index);
int vmm_hotplug_keep(vmm_hotplug *h, unsigned index);
int vmm_hotplug_leaving(vmm_hotplug *h, unsigned index);
int vmm_hotplug_gone(vmm_hotplug *h);

int vmm_pci_segment_add(vmm_vm *vm, unsigned id, uint64_t ecam, uint64_t mmio32, uint64_t mmio32_size,
                        uint64_t mmio64, uint64_t mmio64_size, uint64_t pio, uint64_t pio_size);
vmm_pci_dev *vmm_pci_new(vmm_vm *vm);
int vmm_pci_set(vmm_pci_dev *dev, uint32_t offset, uint32_t size, uint32_t value, uint32_t wmask, uint32_t w1c);
uint32_t vmm_pci_get(vmm_pci_dev *dev, uint32_t offset, uint32_t size);
int vmm_pci_add_cap(vmm_pci_dev *dev, uint8_t id, const uint8_t *body, const uint8_t *wmask, uint32_t len);
int vmm_pci_add_bar(vmm_pci_dev *dev, unsigned index, uint64_t size, uint32_t flags, vmm_io_fn fn, void *opaque);
int vmm_pci_bar_first(vmm_pci_dev *dev, unsigned index, uint64_t at);
int vmm_pci_bar_ioeventfd(vmm_pci_dev *dev, unsigned index, uint64_t offset, uint32_t len, int fd, int assign);
uint64_t vmm_pci_bar_base(vmm_pci_dev *dev, unsigned index);
int vmm_pci_add_msix(vmm_pci_dev *dev, unsigned bar, uint64_t table, uint64_t pba, unsigned vectors);
int vmm_pci_msix_signal(vmm_pci_dev *dev, unsigned vector);
int vmm_pci_msix_fd(vmm_pci_dev *dev, unsigned vector);
void vmm_pci_on_access(vmm_pci_dev *dev, vmm_pci_access_fn fn, void *opaque);
int vmm_pci_attach(vmm_pci_dev *dev, unsigned segment, unsigned slot);
void vmm_pci_detach(vmm_pci_dev *dev);
void vmm_pci_free(vmm_pci_dev *dev);
void vmm_pci_reset(vmm_pci_dev *dev);
int vmm_pci_save(vmm_pci_dev *dev, uint8_t *out, size_t cap);
int vmm_pci_restore(vmm_pci_dev *dev, const uint8_t *in, size_t len);

void vmm_pci_set_intx(vmm_pci_dev *dev, uint32_t gsi);
void vmm_pci_intx(vmm_pci_dev *dev, int level);
int vmm_pci_msix_enabled(vmm_pci_dev *dev);
int vmm_pci_bar_memory(vmm_pci_dev *dev, unsigned index, void *hva);
int vmm_pci_hotplug_new(vmm_vm *vm, uint64_t address);
int vmm_pci_plug(vmm_pci_dev *dev);
int vmm_pci_unplug(vmm_pci_dev *dev);
void vmm_pci_vanish(vmm_pci_dev *dev);
int vmm_pci_ejected(vmm_vm *vm);
int vmm_ged_new(vmm_vm *vm, uint64_t address, uint32_t gsi);
int vmm_ged_notify(vmm_vm *vm, uint32_t bits);
uint32_t vmm_ged_pending(vmm_vm *vm);
void vmm_bus_access(vmm_vm *vm, int space, uint64_t addr, void *data, uint32_t size, int is_write);

typedef struct vmm_queue vmm_queue;
typedef struct vmm_virtio vmm_virtio;
typedef void (*vmm_queue_fn)(void *opaque, vmm_queue *queue);
typedef int (*vmm_features_fn)(void *opaque, uint64_t features);
struct iovec { void *iov_base; size_t iov_len; ...; };
struct vmm_chain {
  uint16_t id;
  uint16_t slots;
  uint32_t n_out, n_in;
  uint64_t out_len, in_len;
};
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
int vmm_queue_handled(vmm_queue *q);
void vmm_queue_kicked(vmm_queue *q);
void vmm_queue_again(vmm_queue *q);
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
int vmm_virtio_config_read(vmm_virtio *v, uint8_t *out, uint32_t cap);
size_t vmm_virtio_state_size(vmm_virtio *v);
void vmm_virtio_save(vmm_virtio *v, uint8_t *out);
int vmm_virtio_restore(vmm_virtio *v, const uint8_t *in, size_t len);
void *vmm_shared_map(int fd, uint64_t size);
int vmm_shared_place(void *at, int fd, uint64_t size);
void vmm_shared_unmap(void *at, uint64_t size);

void vmm_counters_forget(vmm_vm *vm, const char *device);
int vmm_counter_next(vmm_vm *vm, unsigned index, const char **device, const char **name, uint64_t *value);

/* FEATURES_OK asked of a device in Python: opaque is a handle of the device. vCPU threads, takes the GIL. */
extern "Python+C" int vmm_py_features(void *opaque, uint64_t features);
/* A handler in Python: opaque is a handle of machine.bus.Handler. vCPU threads, takes the GIL. */
extern "Python+C" void vmm_py_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write);
