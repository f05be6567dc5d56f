/* SPDX-License-Identifier: Apache-2.0 */
/* Requests without an end, against a core made of arrays. Built with sanitizers and run by test_mem_native.py. */
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

/* A driver that has the next request ready before the last one is answered. */
static int refilling_pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  ask(q);
  return fake_pop(q, chain, iov, cap);
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

static void endless_requests_leave_the_loop_to_others(void) {
  struct mem *m = begin();
  for (int round = 0; round < 3; round++) { /* stopped in between, with requests left */
    vmm_queue *q = queue_begin(0);
    CHECK(!mem_start(m, q));
    CHECK(mem_start(m, q) == -EBUSY);
    fake_api.queue_pop = refilling_pop;
    for (int i = 0; i < 5; i++) CHECK(turn_both()); /* comes back, and goes on the next time */
    fake_api.queue_pop = fake_pop;
    CHECK(seen(q) >= 5 && seen(q) < 1000);
    unsigned before = seen(q);
    struct fake_request *last = NULL;
    for (int i = 0; i < 40; i++) last = ask(q);
    UNTIL(seen(q) == before + 40); /* nothing is left lying */
    CHECK(last->written == ANSWER);
    for (int i = 0; i < 40; i++) ask(q);
    CHECK(turn_both() && seen(q) < before + 80);
    queue_unhandle(q);
    mem_stop(m);
    mem_stop(m);
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
    mem_stop(m);
    queue_end(q);
  }
  loops_end();
  end(m);
}

int main(void) {
  endless_requests_leave_the_loop_to_others();
  stops_any_number_of_times();
  puts("ok");
}
