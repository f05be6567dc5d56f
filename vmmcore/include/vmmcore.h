/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmcore.h - the C interface between the core and a plugin's own data plane.
 *
 * A plugin links with nothing: the core hands it one pointer to `struct vmm_api`
 * (in Python: `machine.api_address`, an integer), the plugin keeps it and calls
 * through it. The table is append-only; a changed or removed slot bumps
 * VMM_API_MAJOR, an added one VMM_API_MINOR. Check it once with vmm_api_check().
 *
 * Threads: an I/O handler runs on the vCPU thread that made the access, so one
 * handler may run on several vCPUs at a time; an fd handler runs on its loop's
 * thread. Neither holds any lock of the core, and neither may block.
 */
#ifndef VMMCORE_H
#define VMMCORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define VMM_API_MAGIC 0x504d4d56u /* "VMMP" in memory */
#define VMM_API_MAJOR 1u
#define VMM_API_MINOR 4u

typedef struct vmm_vm vmm_vm;           /* one virtual machine */
typedef struct vmm_loop vmm_loop;       /* one epoll thread */
typedef struct vmm_chardev vmm_chardev; /* one byte stream of the host: tty, pty, file, pipe */
typedef struct vmm_pci_dev vmm_pci_dev; /* one PCI function (in Python: `device.pci_address`, an integer) */
typedef struct vmm_queue vmm_queue;     /* one virtqueue (in Python: `queue.address`, an integer) */

/* Address spaces of the bus. */
enum { VMM_PIO = 0, VMM_MMIO = 1 };

/* What a device tells the control plane with post_event(). */
enum {
  VMM_EVENT_SHUTDOWN = 1, /* the guest powered off (ACPI S5, PSCI SYSTEM_OFF) */
  VMM_EVENT_RESET = 2,    /* the guest asked for a reset */
  VMM_EVENT_PANIC = 3,    /* the guest's kernel panicked; arg: pvpanic's byte */
  VMM_EVENT_TRIPLE = 4,   /* triple fault (KVM_EXIT_SHUTDOWN); arg: vCPU index */
  VMM_EVENT_ERROR = 5,    /* KVM gave up on a vCPU; arg: vCPU index */
  VMM_EVENT_EXIT = 6,     /* the guest asked to end with exit status arg (debug exit port) */
  VMM_EVENT_QUIT = 7,     /* the user asked to end at once (escape key of a terminal) */
  VMM_EVENT_STAMP = 8,    /* boot-time stamp; arg: the byte written */
  VMM_EVENT_DEVICE = 9,   /* for the device whose token is `arg`: its event() in Python is called */
  VMM_EVENT_HOTPLUG = 10, /* the guest has ejected what it was asked to, or plugged what it was offered */
};

/*
 * An access of `size` bytes (1, 2, 4 or 8) at `offset` from the start of the
 * region, wholly inside it. Little endian at `data`. A read finds all ones in
 * `data`: a handler that does nothing reads as an empty bus.
 */
typedef void (*vmm_io_fn)(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write);

/* The guest is about to read config bytes [offset, offset+size), or has written them (already applied). vCPU thread, no
 * lock held. In Python: device.watch_config(). */
typedef void (*vmm_pci_access_fn)(void *opaque, uint32_t offset, uint32_t size, int is_write);

/* `events` are epoll's. */
typedef void (*vmm_fd_fn)(void *opaque, int fd, uint32_t events);

/* Bytes from the host; returns how many were taken. Fewer than `len` stops the
 * flow until chardev_kick(). Called with (NULL, 0) when an output buffer that was
 * full has drained. Runs on a loop's thread. */
typedef size_t (*vmm_rx_fn)(void *opaque, const uint8_t *data, size_t len);

/* A request: the buffers of a virtqueue that the driver made available together. Its pieces are in an array of
 * iovecs beside it: [0, n_out) for the device to read, then n_in for it to write. All of it is guest memory that
 * has been checked; what is in it may change at any time. */
struct vmm_chain {
  uint16_t id;    /* names it to queue_push(): the caller leaves it alone */
  uint16_t slots; /* likewise */
  uint32_t n_out, n_in;
  uint64_t out_len, in_len; /* bytes */
};

/* The driver made something available in the queue. Runs on the queue's loop, never twice at a time. */
typedef void (*vmm_queue_fn)(void *opaque, vmm_queue *queue);

/* One request, as queue_pop() has it. Returns how many bytes of the writable pieces are filled, and it is given back to
 * the driver; or VMM_REQUEST_*. Runs on the queue's loop, never twice at a time. */
typedef int64_t (*vmm_request_fn)(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov);
enum {
  /* The device gives it back later, on the queue's loop: queue_push() with a copy of `iov`, which is the next request's
   * then (or NULL and 0 bytes), and queue_flush(). In stop() it pushes or unpops what it still keeps. */
  VMM_REQUEST_KEPT = -1,
  VMM_REQUEST_LATER = -2, /* back into the queue, and no more of them until queue_again() or a kick */
};

struct vmm_api {
  uint32_t magic, major, minor, size;

  /* --- since 1.0 --- functions that return int: 0 or a positive result, else -errno */

  /* Map a handler; -EEXIST if it would overlap, -EINVAL if it wraps. */
  int (*bus_add)(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque);
  /* Unmap the region that starts at `base`. Called from any thread but a vCPU's,
   * no handler of it runs any more when this returns. */
  int (*bus_del)(vmm_vm *vm, int space, uint64_t base);

  /* Host address of guest memory [gpa, gpa+len), or NULL unless all of it is one
   * contiguous piece of RAM. The one bounds check for guest-made addresses. */
  void *(*mem)(vmm_vm *vm, uint64_t gpa, uint64_t len);
  /* Tell the dirty log that the VMM itself wrote [gpa, gpa+len). */
  void (*mem_dirty)(vmm_vm *vm, uint64_t gpa, uint64_t len);

  /* A new eventfd that raises an edge on `gsi` when written (KVM irqfd). The
   * caller owns it and gives it back with irqfd_close(). */
  int (*irqfd_open)(vmm_vm *vm, uint32_t gsi);
  void (*irqfd_close)(vmm_vm *vm, uint32_t gsi, int fd);
  /* Drive the level of a line. Several devices on one GSI are ORed by `source` (0..63). */
  int (*irq_level)(vmm_vm *vm, uint32_t gsi, unsigned source, int level);
  /* Have a guest's write of `len` bytes (0: any length) at `addr` wake `fd` without leaving the kernel. */
  int (*ioeventfd)(vmm_vm *vm, int space, uint64_t addr, uint32_t len, int fd, int assign);

  /* The VM's loop number `index` (0..15), started when first asked for. */
  vmm_loop *(*loop)(vmm_vm *vm, unsigned index);
  int (*loop_add)(vmm_loop *loop, int fd, uint32_t events, vmm_fd_fn fn, void *opaque);
  int (*loop_mod)(vmm_loop *loop, int fd, uint32_t events);
  /* Called from another thread than the loop's, the handler does not run any more when this returns. */
  int (*loop_del)(vmm_loop *loop, int fd);

  /* A byte stream on host fds (-1: none; both may be the same). It takes the fds
   * over and closes them. Output never blocks the caller: it goes to a 64 KiB
   * buffer that the loop drains. Input flows from the first chardev_kick() on. */
  vmm_chardev *(*chardev_open)(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx, void *opaque);
  /* How many of `len` bytes were taken; fewer when the buffer is full. */
  size_t (*chardev_write)(vmm_chardev *dev, const uint8_t *data, size_t len);
  /* Bytes of room in the output buffer. */
  size_t (*chardev_room)(vmm_chardev *dev);
  /* The device has room for input (once activated, and again after it was full). */
  void (*chardev_kick)(vmm_chardev *dev);
  /* Drains what can be written at once, puts a terminal back, closes. */
  void (*chardev_close)(vmm_chardev *dev);

  void (*post_event)(vmm_vm *vm, uint32_t kind, uint64_t arg);
  /* One line for the log; level as syslog's (3 error, 4 warning, 6 info, 7 debug). */
  void (*log)(vmm_vm *vm, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
  /* CLOCK_MONOTONIC in ns. */
  uint64_t (*now_ns)(void);
  /* The KVM fds, for an architecture's own ioctls. */
  int (*kvm_fd)(vmm_vm *vm);
  int (*vm_fd)(vmm_vm *vm);
  int (*vcpu_fd)(vmm_vm *vm, unsigned index); /* -ENOENT when there is none */

  /* --- since 1.1 --- virtqueues. All but queue_handle() and queue_fail(): from one thread at a time, which is the
   * queue's loop while the device runs. A queue is usable from the device's start() until its stop() returns. */

  /* The next request: 1; none: 0; -EPROTO when the driver broke the ring (now or before). That is reported and
   * the device asks for a reset; the caller need only stop. A request of more pieces than `cap` (give at least
   * the queue's size plus a few) breaks the ring as well. */
  int (*queue_pop)(vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov, uint32_t cap);
  /* Put back what was popped last; several in reverse order. */
  void (*queue_unpop)(vmm_queue *queue, const struct vmm_chain *chain);
  /* Give a request back with `written` bytes of its writable pieces filled, in any order. `iov` is what pop
   * filled in: the pages are marked dirty by it. The driver sees it from the next flush on. */
  void (*queue_push)(vmm_queue *queue, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written);
  /* Interrupt the driver about what was pushed, if it wants to hear. 1 if it was interrupted. */
  int (*queue_flush)(vmm_queue *queue);
  /* Ask for a kick with the next request. 1 if one is there already: then go on popping. */
  int (*queue_wait)(vmm_queue *queue);
  /* No kicks, please, until queue_wait(): for a device that is busy with the queue anyway. */
  void (*queue_quiet)(vmm_queue *queue);
  /* The device cannot go on (`why`: one line): NEEDS_RESET, a log line, an event. Any thread. */
  void (*queue_fail)(vmm_queue *queue, const char *why);
  uint32_t (*queue_size)(vmm_queue *queue);
  /* Feature bits that the driver accepted. */
  uint64_t (*queue_features)(vmm_queue *queue);
  /* The loop that the core chose for the queue: where the device's own fds for it belong too. */
  vmm_loop *(*queue_loop)(vmm_queue *queue);
  /* In the device's start(): call fn on the queue's loop for each kick, and once now. Ends before stop() is called. */
  int (*queue_handle)(vmm_queue *queue, vmm_queue_fn fn, void *opaque);

  /* A number that only grows, shown by the VM's counters as device.name. Add with an atomic or from one thread.
   * The same pointer for the same names, valid as long as the VM; NULL without memory. */
  uint64_t *(*counter)(vmm_vm *vm, const char *device, const char *name);

  /* --- since 1.2 --- */

  /* Have the guest see `size` bytes of host memory at `gpa`, all three page aligned: a ROM, flash. It is no RAM: mem()
   * does not find it. Reads do not leave the guest. *slot is the caller's, at first -1; size 0 takes the memory away,
   * and then the bus has all accesses. To change `flags` (VMM_SLOT_*), take it away first. Any thread. */
  int (*mem_slot)(vmm_vm *vm, int *slot, uint64_t gpa, uint64_t size, void *host, uint32_t flags);

  /* --- since 1.3 --- */

  /* Set bits (VMM_GED_*) of ACPI's generic event device, and have the guest look. -ENODEV: the machine has none. Any
   * thread. */
  int (*ged_notify)(vmm_vm *vm, uint32_t bits);
  /* `size` (1, 2 or 4) bytes of a function's config space, as the guest reads them. Any thread. */
  uint32_t (*pci_config)(vmm_pci_dev *dev, uint32_t offset, uint32_t size);
  /* Change `len` bytes at `at` of the device configuration space of the queue's device; with `notify` the driver is
   * told. -EINVAL outside of it. Any thread. */
  int (*queue_config)(vmm_queue *queue, uint32_t at, const void *data, uint32_t len, int notify);

  /* --- since 1.4 --- */

  /* In the device's start(): call fn on the queue's loop for each request. The core pops, gives back and interrupts, and
   * lets others have the loop after every 32: a driver that never stops asking holds up nobody. Ends before stop() is
   * called. Instead of queue_handle(), which leaves all that to the device. */
  int (*queue_serve)(vmm_queue *queue, vmm_request_fn fn, void *opaque);
  /* Have the queue's handler called (again), once others have had the loop. In a vmm_request_fn: this request was the
   * last for now. While the device runs, any thread. */
  void (*queue_again)(vmm_queue *queue);
};

/* Events of ged_notify(), as the machine's ACPI tables have them. */
enum { VMM_GED_CPU = 1, VMM_GED_MEMORY = 2, VMM_GED_PCI = 4, VMM_GED_POWER = 8 };

/* Flags of mem_slot(). */
enum {
  VMM_SLOT_READONLY = 1, /* what the guest writes goes to the bus, where a handler may be (bus_add) */
};

/* Flags of chardev_open(). */
enum {
  VMM_CHARDEV_RAW = 1,    /* if it is a terminal: raw mode until close */
  VMM_CHARDEV_ESCAPE = 2, /* if it is a terminal: Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A */
  VMM_CHARDEV_DROP = 4,   /* drop output that nobody reads (a pty) instead of holding the guest up */
};

/* 0, or: -1 not our table, -2 other major version, -3 an older core than needed. */
static inline int vmm_api_check(const struct vmm_api *api, uint32_t minor) {
  if (!api || api->magic != VMM_API_MAGIC) return -1;
  if (api->major != VMM_API_MAJOR) return -2;
  return api->minor < minor ? -3 : 0;
}

/* Little-endian access to the bytes of an I/O handler. */
static inline uint64_t vmm_load(const void *data, uint32_t size) {
  uint64_t v = 0;
  __builtin_memcpy(&v, data, size > 8 ? 8 : size);
  return v;
}
static inline void vmm_store(void *data, uint32_t size, uint64_t v) {
  __builtin_memcpy(data, &v, size > 8 ? 8 : size);
}

#endif
