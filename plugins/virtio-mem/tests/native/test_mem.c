/* SPDX-License-Identifier: Apache-2.0 */
/* The memory device against a core made of arrays. Built with sanitizers and run by test_mem_native.py. */
#define _GNU_SOURCE
#include "mem.h"

#include <sys/mman.h>

#include "fake_core.h"

#define BASE (1ull << 32)
enum { BLOCK = 1 << 21, SIZE = 16 * BLOCK, STATE = 3, ANSWER = 10 };
static uint8_t *ram, request[24], response[ANSWER];

static void *guest_mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  CHECK(gpa == BASE && len == SIZE);
  return ram;
}

static struct fake_request *ask(vmm_queue *q) {
  struct iovec iov[] = {{request, sizeof request}, {response, ANSWER}};
  return submit(q, iov, 1, 1);
}

static struct mem *begin(void) {
  core_begin();
  fake_api.mem = guest_mem;
  ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
  CHECK(ram != MAP_FAILED);
  vmm_store(request, 2, STATE);
  vmm_store(request + 8, 8, BASE);
  vmm_store(request + 16, 2, 1);
  int error = 1;
  struct mem *m = mem_new(&fake_api, NULL, "mem0", 77, BASE, SIZE, BLOCK, 0, &error);
  CHECK(m && !error);
  return m;
}

static void end(struct mem *m) {
  mem_free(m);
  munmap(ram, SIZE);
  core_end();
}

static void requests_are_answered(void) {
  struct mem *m = begin();
  for (int round = 0; round < 3; round++) { /* stopped in between, with requests left */
    vmm_queue *q = queue_begin(0);
    CHECK(!mem_start(m, q));
    struct fake_request *last = NULL;
    for (int i = 0; i < 40; i++) last = ask(q);
    UNTIL(seen(q) == 40);
    CHECK(last->written == ANSWER);
    for (int i = 0; i < 40; i++) ask(q);
    queue_unhandle(q);
    queue_end(q);
  }
  end(m);
}

/* With the loop in a thread of its own: the sanitizer sees a handler that runs too late. */
static void stops_any_number_of_times(void) {
  struct mem *m = begin();
  loops_run();
  for (unsigned round = 0; round < 200; round++) {
    vmm_queue *q = queue_begin(0);
    CHECK(!mem_start(m, q));
    for (unsigned i = 0; i < 40 + round % 20; i++) ask(q);
    queue_unhandle(q);
    queue_end(q);
  }
  loops_end();
  end(m);
}

int main(void) {
  requests_are_answered();
  stops_any_number_of_times();
  puts("ok");
}
