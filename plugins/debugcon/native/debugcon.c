/* SPDX-License-Identifier: Apache-2.0 */
#include "debugcon.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmmcore.h"

/* What a read of the console port gives: guests probe for the device this way (Bochs port 0xe9). */
#define DEBUGCON_ID 0xe9

struct debugcon {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_chardev *host; /* NULL: nobody listens */
  struct debugcon_ports ports;
  bool console_mapped, stamp_mapped, exit_mapped;
  atomic_uint_fast64_t tx_bytes, tx_dropped, stamps;
  atomic_bool exited;
  atomic_uint_fast64_t first[DEBUGCON_STAMPS]; /* ns; 0: not written yet */
};

/* --- vCPU threads ------------------------------------------------------------- */

/* Wide and repeated output is bytes in a row. A host that does not keep up loses some:
 * the port has no way to say "wait". */
static void on_console(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct debugcon *d = opaque;
  (void)offset;
  if (!is_write) {
    vmm_store(data, size, DEBUGCON_ID);
    return;
  }
  size_t taken = d->host ? d->api->chardev_write(d->host, data, size) : size;
  atomic_fetch_add_explicit(&d->tx_bytes, taken, memory_order_relaxed);
  if (taken < size) atomic_fetch_add_explicit(&d->tx_dropped, size - taken, memory_order_relaxed);
}

/* Only the first write of a value counts. Port 0x80 is also where kernels write to pass a
 * microsecond, with whatever is in AL: this way the noise is bounded, and so are the events. */
static void on_stamp(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct debugcon *d = opaque;
  (void)offset, (void)size;
  if (!is_write) return;
  uint8_t value = *(const uint8_t *)data;
  if (atomic_load_explicit(&d->first[value], memory_order_relaxed)) return;
  uint_fast64_t none = 0;
  if (!atomic_compare_exchange_strong(&d->first[value], &none, d->api->now_ns())) return;
  atomic_fetch_add_explicit(&d->stamps, 1, memory_order_relaxed);
  d->api->post_event(d->vm, VMM_EVENT_STAMP, value);
}

static void on_exit_port(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct debugcon *d = opaque;
  (void)offset;
  if (is_write && !atomic_exchange(&d->exited, true))
    d->api->post_event(d->vm, VMM_EVENT_EXIT, vmm_load(data, size));
}

/* There is no input, and nobody waits for room. */
static size_t on_host(void *opaque, const uint8_t *data, size_t len) {
  (void)opaque, (void)data;
  return len;
}

/* --- life cycle ----------------------------------------------------------------- */

static int map(struct debugcon *d, uint16_t port, unsigned ports, vmm_io_fn fn, bool *mapped) {
  if (!port) return 0;
  int status = d->api->bus_add(d->vm, VMM_PIO, port, ports, fn, d);
  *mapped = status >= 0;
  return status;
}

static int map_all(struct debugcon *d) {
  int status = map(d, d->ports.console, 1, on_console, &d->console_mapped);
  if (status >= 0) status = map(d, d->ports.stamp, 1, on_stamp, &d->stamp_mapped);
  if (status >= 0) status = map(d, d->ports.exit, DEBUGCON_EXIT_PORTS, on_exit_port, &d->exit_mapped);
  return status;
}

struct debugcon *debugcon_new(const void *api, void *vm, const struct debugcon_ports *ports, int out_fd, uint32_t flags,
                              int *error) {
  struct debugcon *d = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) d = calloc(1, sizeof *d);
  if (d) {
    d->api = api;
    d->vm = vm;
    d->ports = *ports;
    *error = 0;
    if (out_fd >= 0) {
      d->host = d->api->chardev_open(vm, -1, out_fd, flags, on_host, d);
      out_fd = -1; /* taken over, even if it failed */
      if (!d->host) *error = -EIO;
    }
    if (*error >= 0) *error = map_all(d);
    if (*error >= 0) return d;
    debugcon_free(d);
  }
  if (out_fd >= 0) close(out_fd);
  return NULL;
}

void debugcon_free(struct debugcon *d) {
  if (!d) return;
  if (d->console_mapped) d->api->bus_del(d->vm, VMM_PIO, d->ports.console);
  if (d->stamp_mapped) d->api->bus_del(d->vm, VMM_PIO, d->ports.stamp);
  if (d->exit_mapped) d->api->bus_del(d->vm, VMM_PIO, d->ports.exit);
  if (d->host) d->api->chardev_close(d->host);
  free(d);
}

void debugcon_reset(struct debugcon *d) {
  for (unsigned value = 0; value < DEBUGCON_STAMPS; value++) atomic_store(&d->first[value], 0);
  atomic_store(&d->exited, false);
}

static int by_time(const void *left, const void *right) {
  const struct debugcon_stamp *a = left, *b = right;
  return (a->time_ns > b->time_ns) - (a->time_ns < b->time_ns);
}

unsigned debugcon_stamps(struct debugcon *d, struct debugcon_stamp stamps[DEBUGCON_STAMPS]) {
  unsigned n = 0;
  for (unsigned value = 0; value < DEBUGCON_STAMPS; value++) {
    uint64_t time_ns = atomic_load(&d->first[value]);
    if (time_ns) stamps[n++] = (struct debugcon_stamp){.time_ns = time_ns, .value = (uint8_t)value};
  }
  qsort(stamps, n, sizeof *stamps, by_time);
  return n;
}

void debugcon_read_counters(struct debugcon *d, struct debugcon_counters *counters) {
  counters->tx_bytes = atomic_load(&d->tx_bytes);
  counters->tx_dropped = atomic_load(&d->tx_dropped);
  counters->stamps = atomic_load(&d->stamps);
}
