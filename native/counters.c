/* SPDX-License-Identifier: Apache-2.0 */
/* Counters that data planes in C add to: a list of names, each with a number on a cache line of its own. */
#include "native.h"

#include <stdlib.h>
#include <string.h>

struct vmm_counter {
  _Alignas(64) uint64_t value;
  struct vmm_counter *next;
  char device[64], name[32];
};

uint64_t *vmm_counter(vmm_vm *vm, const char *device, const char *name) {
  pthread_mutex_lock(&vm->event_lock);
  struct vmm_counter *c = vm->counters;
  while (c && (strncmp(c->device, device, sizeof c->device - 1) || strncmp(c->name, name, sizeof c->name - 1))) c = c->next;
  if (!c && (c = aligned_alloc(64, sizeof *c))) {
    memset(c, 0, sizeof *c);
    strncpy(c->device, device, sizeof c->device - 1);
    strncpy(c->name, name, sizeof c->name - 1);
    c->next = vm->counters;
    vm->counters = c;
  }
  pthread_mutex_unlock(&vm->event_lock);
  return c ? &c->value : NULL;
}

/* The counter number `index`: 1, or 0 behind the last. The names live as long as the device. */
int vmm_counter_next(vmm_vm *vm, unsigned index, const char **device, const char **name, uint64_t *value) {
  pthread_mutex_lock(&vm->event_lock);
  struct vmm_counter *c = vm->counters;
  while (c && index--) c = c->next;
  pthread_mutex_unlock(&vm->event_lock);
  if (!c) return 0;
  *device = c->device;
  *name = c->name;
  *value = __atomic_load_n(&c->value, __ATOMIC_RELAXED);
  return 1;
}

/* The device is gone, and its data plane with it: nobody has the pointers any more. */
void vmm_counters_forget(vmm_vm *vm, const char *device) {
  pthread_mutex_lock(&vm->event_lock);
  for (struct vmm_counter **at = &vm->counters, *c; (c = *at);) {
    if (strncmp(c->device, device, sizeof c->device - 1)) {
      at = &c->next;
      continue;
    }
    *at = c->next;
    free(c);
  }
  pthread_mutex_unlock(&vm->event_lock);
}

void vmm_counters_free(vmm_vm *vm) {
  for (struct vmm_counter *c = vm->counters, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  vm->counters = NULL;
}
