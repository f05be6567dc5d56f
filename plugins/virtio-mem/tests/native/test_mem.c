/* SPDX-License-Identifier: Apache-2.0 */
/* The memory device against a core made of arrays. Built with sanitizers and run by test_mem_native.py. */
#define _GNU_SOURCE
#include "mem.h"

#include <sys/mman.h>

#include "fake_core.h"

#define BASE (1ull << 32)
enum { BLOCK = 1 << 21, SIZE = 100 * BLOCK, PLUG = 0, UNPLUG_ALL = 2, STATE = 3, ANSWER = 10, PREFAULT = 2 };
static uint8_t *ram, request[24], response[ANSWER];

static void *guest_mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  CHECK(gpa == BASE && len == SIZE);
  return ram;
}

static void dirty(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  CHECK(gpa >= BASE && len <= SIZE && gpa - BASE <= SIZE - len);
}

static int config(vmm_queue *q, uint32_t at, const void *data, uint32_t len, int notify) {
  (void)q, (void)at, (void)data, (void)len, (void)notify;
  return 0;
}

static void post(vmm_vm *vm, uint32_t kind, uint64_t arg) {
  (void)vm;
  CHECK(kind == VMM_EVENT_DEVICE && arg == 77);
}

static struct fake_request *ask(vmm_queue *q) {
  struct iovec iov[] = {{request, sizeof request}, {response, ANSWER}};
  return submit(q, iov, 1, 1);
}

static struct mem *begin(uint32_t flags) {
  core_begin();
  fake_api.mem = guest_mem;
  fake_api.mem_dirty = dirty;
  fake_api.queue_config = config;
  fake_api.post_event = post;
  ram = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE, -1, 0);
  CHECK(ram != MAP_FAILED);
  vmm_store(request, 2, STATE);
  vmm_store(request + 8, 8, BASE);
  vmm_store(request + 16, 2, 1);
  int error = 1;
  struct mem *m = mem_new(&fake_api, NULL, "mem0", 77, BASE, SIZE, BLOCK, flags, &error);
  CHECK(m && !error);
  return m;
}

static void end(struct mem *m) {
  mem_free(m);
  munmap(ram, SIZE);
  core_end();
}

static void requests_are_answered(void) {
  struct mem *m = begin(0);
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
  struct mem *m = begin(0);
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

static unsigned blocks_there(void) {
  unsigned n = 0;
  static unsigned char pages[SIZE / 4096];
  CHECK(!mincore(ram, SIZE, pages));
  for (unsigned i = 0; i < SIZE / BLOCK; i++) n += pages[(uint64_t)i * (BLOCK / 4096)] & 1;
  return n;
}

/* 64 MiB a turn, and none of it is plugged before all of it is there. */
static void memory_is_populated_in_pieces(void) {
  struct mem *m = begin(PREFAULT);
  uint64_t usable;
  CHECK(!mem_request(m, SIZE, &usable));
  vmm_queue *q = queue_begin(0);
  CHECK(!mem_start(m, q));
  turn(1);
  vmm_store(request, 2, PLUG);
  vmm_store(request + 16, 2, 80);
  ask(q);
  for (unsigned turns = 1; turns <= 2; turns++) {
    CHECK(turn_both() && !seen(q) && !mem_plugged(m) && blocks_there() == 32 * turns);
  }
  CHECK(turn_both() && seen(q) == 1 && mem_plugged(m) == 80ull * BLOCK && blocks_there() == 80);
  CHECK(vmm_load(response, 2) == 0);
  vmm_store(request + 8, 8, BASE + 80ull * BLOCK);
  vmm_store(request + 16, 2, 20);
  CHECK(!mem_request(m, SIZE - BLOCK, &usable)); /* less by now: it is refused, and nothing is populated for it */
  ask(q);
  UNTIL(seen(q) == 2);
  CHECK(vmm_load(response, 2) == 1 && blocks_there() == 80);
  queue_unhandle(q);
  queue_end(q);
  end(m);
}

static void *ask_for_less(void *opaque) {
  uint64_t usable;
  while (blocks_there() <= 64) {} /* the last piece is on its way */
  CHECK(!mem_request(opaque, 0, &usable));
  return NULL;
}

/* It is plugged with all its memory, or it is not and has none. */
static void less_is_wanted_before_all_of_it_is_there(void) {
  struct mem *m = begin(PREFAULT);
  uint64_t usable;
  vmm_queue *q = queue_begin(0);
  CHECK(!mem_start(m, q));
  loops_run();
  for (unsigned round = 0; round < 20; round++) {
    pthread_t other;
    CHECK(!mem_request(m, SIZE, &usable));
    CHECK(!pthread_create(&other, NULL, ask_for_less, m));
    vmm_store(request, 2, PLUG);
    vmm_store(request + 16, 2, 80);
    ask(q);
    UNTIL(seen(q) == 2 * round + 1);
    CHECK(!pthread_join(other, NULL));
    CHECK(blocks_there() == mem_plugged(m) / BLOCK);
    vmm_store(request, 2, UNPLUG_ALL);
    ask(q);
    UNTIL(seen(q) == 2 * round + 2);
  }
  loops_end();
  queue_unhandle(q);
  queue_end(q);
  end(m);
}

static void what_was_populated_in_vain_is_given_back(void) {
  struct mem *m = begin(PREFAULT);
  uint64_t usable;
  CHECK(!mem_request(m, SIZE, &usable));
  vmm_store(request, 2, PLUG);
  vmm_store(request + 16, 2, 80);
  for (unsigned round = 0; round < 2; round++) {
    vmm_queue *q = queue_begin(0);
    CHECK(!mem_start(m, q)); /* the second time: what the first driver asked for is nobody's */
    CHECK(blocks_there() == 0);
    turn(1);
    ask(q);
    CHECK(turn_both() && blocks_there() == 32);
    if (round) { /* it asks for something else instead */
      vmm_store(request + 16, 2, 1);
      UNTIL(seen(q) == 1);
      CHECK(blocks_there() == 1 && mem_plugged(m) == BLOCK);
    }
    queue_unhandle(q);
    if (!round) { /* a pause, and then a driver that goes */
      CHECK(blocks_there() == 32);
      mem_reset(m);
    }
    queue_end(q);
  }
  CHECK(blocks_there() == 1);
  end(m);
}

static void older_core_is_refused(void) {
  struct vmm_api older = fake_api;
  int error = 0;
  older.minor = 3;
  CHECK(!mem_new(&older, NULL, "mem0", 77, BASE, SIZE, BLOCK, 0, &error) && error == -ENOTSUP);
}

int main(void) {
  older_core_is_refused();
  memory_is_populated_in_pieces();
  what_was_populated_in_vain_is_given_back();
  less_is_wanted_before_all_of_it_is_there();
  requests_are_answered();
  stops_any_number_of_times();
  puts("ok");
}
