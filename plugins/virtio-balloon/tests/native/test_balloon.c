/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon against a core made of arrays. Built with sanitizers and run by test_balloon_native.py. */
#define _GNU_SOURCE
#include "balloon.h"

#include <sys/mman.h>

#include "fake_core.h"

/* Guest memory: RAM from page 16 on, and as much again after a hole of 16 pages, elsewhere in our address space. */
enum { PAGE = 4096, FIRST = 16, PAGES = 64, SECOND = FIRST + PAGES + 16 };
static uint8_t *ram[2];
static uint64_t dirtied;

static void *guest_mem(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  (void)vm;
  for (int i = 0; i < 2; i++) {
    uint64_t start = (uint64_t)(i ? SECOND : FIRST) * PAGE;
    if (gpa >= start && gpa - start < PAGES * PAGE) return len <= PAGES * PAGE - (gpa - start) ? ram[i] + (gpa - start) : NULL;
  }
  return NULL;
}

static void guest_dirty(vmm_vm *vm, uint64_t gpa, uint64_t len) {
  CHECK(guest_mem(vm, gpa, len));
  dirtied += len;
}

static struct balloon *begin(int flags) {
  core_begin();
  for (int i = 0; i < 2; i++) {
    ram[i] = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    CHECK(ram[i] != MAP_FAILED);
    memset(ram[i], 0xa5, PAGES * PAGE);
  }
  dirtied = 0;
  fake_api.mem = guest_mem;
  fake_api.mem_dirty = guest_dirty;
  int error = 1;
  struct balloon *b = balloon_new(&fake_api, NULL, "balloon0", &error);
  CHECK(b && !error);
  return b;
}

static void end(struct balloon *b) {
  balloon_free(b);
  for (int i = 0; i < 2; i++) munmap(ram[i], PAGES * PAGE);
  core_end();
}

static vmm_queue *queues[5];

static void start(struct balloon *b) {
  for (unsigned i = 0; i < 5; i++) queues[i] = queue_begin(i);
  void *reports[] = {queues[3], queues[4]};
  CHECK(!balloon_start(b, queues[0], queues[1], queues[2], reports, 2));
}

static void stop(struct balloon *b) {
  for (unsigned i = 0; i < 5; i++) queue_unhandle(queues[i]);
  balloon_stop(b);
  for (unsigned i = 0; i < 5; i++) queue_end(queues[i]);
}

static unsigned zero_pages(void) {
  unsigned n = 0;
  for (int r = 0; r < 2; r++)
    for (unsigned p = 0; p < PAGES; p++) n += ram[r][p * PAGE] == 0 && ram[r][p * PAGE + PAGE - 1] == 0;
  return n;
}

static void pages_that_are_given_up_are_gone(int flags) {
  struct balloon *b = begin(flags);
  start(b);
  /* up, down, alone, twice; in pieces that cut a number in two */
  uint32_t pages[] = {FIRST, FIRST + 1, FIRST + 2, SECOND + 9, SECOND + 8, SECOND + 7, FIRST + 40, FIRST + 40};
  uint8_t *bytes = (uint8_t *)pages;
  struct iovec iov[] = {{bytes, 6}, {bytes + 6, 0}, {bytes + 6, sizeof pages - 6}};
  CHECK(submit(queues[0], iov, 3, 0));
  UNTIL(seen(queues[0]) == 1);
  CHECK(zero_pages() == 7 && counted("inflated_bytes") == 8 * PAGE && dirtied == 8 * PAGE);
  CHECK(!ram[0][0] && !ram[0][3 * PAGE - 1] && ram[0][3 * PAGE] == 0xa5 && !ram[1][7 * PAGE] && ram[1][6 * PAGE] == 0xa5);
  submit_out(queues[1], pages, sizeof pages);
  UNTIL(seen(queues[1]) == 1);
  CHECK(counted("deflated_bytes") == 8 * PAGE && counted("refused_bytes") == 0);
  ram[0][0] = 1; /* and usable again */
  stop(b);
  end(b);
}

static void what_is_no_ram_is_left_alone(void) {
  struct balloon *b = begin(MAP_PRIVATE);
  start(b);
  uint32_t pages[PAGES + 4], n = 0;
  for (uint32_t p = FIRST - 2; p < FIRST + PAGES + 2; p++) pages[n++] = p; /* over both ends */
  submit_out(queues[0], pages, n * 4);
  uint32_t wild[] = {0xffffffff, 0, 0xfffffffe, 0x80000000};
  submit_out(queues[0], wild, sizeof wild);
  submit_out(queues[0], wild, 3); /* half a number */
  submit(queues[0], NULL, 0, 0);
  UNTIL(seen(queues[0]) == 4);
  CHECK(zero_pages() == PAGES && counted("inflated_bytes") == PAGES * PAGE && counted("refused_bytes") == 8 * PAGE);
  stop(b);
  end(b);
}

static void endless_request_ends(void) {
  struct balloon *b = begin(MAP_PRIVATE);
  start(b);
  size_t size = 64 << 20;
  uint8_t *huge = calloc(1, size); /* all of them page 0, which is no RAM */
  submit_out(queues[0], huge, size);
  UNTIL(seen(queues[0]) == 1);
  CHECK(counted("refused_bytes") > 0 && counted("inflated_bytes") == 0);
  free(huge);
  stop(b);
  end(b);
}

/* Requests that are large together are served in several calls: nobody waits long for the loop. */
static void large_requests_take_turns(void) {
  enum { NUMBERS = 40000, REQUESTS = 4 };
  static uint32_t none[NUMBERS]; /* all of them page 0, which is no RAM */
  struct balloon *b = begin(MAP_PRIVATE);
  start(b);
  turn(1);
  for (unsigned i = 0; i < REQUESTS; i++) submit_out(queues[0], none, sizeof none);
  for (unsigned i = 2; i <= REQUESTS; i += 2) { /* with the second, enough is enough */
    turn_both();
    CHECK(seen(queues[0]) == i);
  }
  for (unsigned i = 0; i < 8; i++) submit_out(queues[0], none, 1000 * sizeof *none); /* small ones go together */
  turn_both();
  if (seen(queues[0]) == REQUESTS) turn_both(); /* the last wake */
  CHECK(seen(queues[0]) == REQUESTS + 8);
  CHECK(counted("refused_bytes") == (REQUESTS * (uint64_t)NUMBERS + 8000) * PAGE);
  stop(b);
  end(b);
}

static void reported_pages_are_gone(int flags) {
  struct balloon *b = begin(flags);
  start(b);
  struct iovec iov[] = {{ram[0], 8 * PAGE}, {ram[1] + 100, 3 * PAGE}}; /* the second: two whole pages in it */
  for (unsigned q = 3; q < 5; q++) {
    submit(queues[q], iov, 0, 2);
    UNTIL(seen(queues[q]) == 1);
    CHECK(zero_pages() == 10 && counted("reported_bytes") == (q - 2) * 10 * PAGE);
    CHECK(ram[1][100] == 0xa5 && ram[1][3 * PAGE + 50] == 0xa5);
  }
  stop(b);
  end(b);
}

struct __attribute__((packed)) stat {
  uint16_t tag;
  uint64_t value;
};

static void statistics_come_when_they_are_asked_for(void) {
  struct balloon *b = begin(MAP_PRIVATE);
  uint64_t got[BALLOON_STATS];
  start(b);
  balloon_ask(b); /* there are none yet */
  turn(10);
  struct stat stats[] = {{4, 1000}, {5, 2000}, {0xffff, 7}, {16, 8}};
  submit_out(queues[2], stats, sizeof stats - 3); /* the last is cut off */
  turn(20);
  CHECK(seen(queues[2]) == 0); /* it stays with the device */
  balloon_stats(b, got);
  CHECK(got[4] == 1000 && got[5] == 2000 && got[0] == UINT64_MAX);
  for (unsigned i = 1; i <= 3; i++) {
    balloon_ask(b);
    UNTIL(seen(queues[2]) == i);
    stats[0].value = 1000 + i;
    submit_out(queues[2], stats, sizeof stats);
    do {
      turn(1);
      balloon_stats(b, got);
    } while (got[4] != 1000 + i);
  }
  /* A pause: the request goes back into the queue, and is there again afterwards. */
  for (unsigned i = 0; i < 5; i++) queue_unhandle(queues[i]);
  balloon_stop(b);
  void *none[] = {NULL, NULL};
  CHECK(!balloon_start(b, queues[0], queues[1], queues[2], none, 2));
  turn(10);
  balloon_ask(b);
  UNTIL(seen(queues[2]) == 4);
  submit_out(queues[2], stats, sizeof stats);
  submit_out(queues[2], stats, sizeof stats); /* two at a time: the first comes back */
  UNTIL(seen(queues[2]) == 5);
  stop(b);
  CHECK(!balloon_start(b, NULL, NULL, NULL, none, 2)); /* a driver without queues */
  balloon_ask(b);
  balloon_stop(b);
  end(b);
}

static void stops_any_number_of_times(void) {
  struct balloon *b = begin(MAP_PRIVATE);
  loops_run();
  uint32_t pages[] = {FIRST, FIRST + 5};
  struct stat stat = {4, 1};
  for (unsigned round = 0; round < 100; round++) {
    start(b);
    for (unsigned i = 0; i < 40; i++) {
      submit_out(queues[i % 2], pages, sizeof pages);
      submit_out(queues[2], &stat, sizeof stat);
      balloon_ask(b);
    }
    stop(b);
  }
  loops_end();
  end(b);
}

static void older_core_is_refused(void) {
  struct vmm_api older = fake_api;
  int error = 0;
  older.minor = 3;
  CHECK(!balloon_new(&older, NULL, "balloon0", &error) && error == -ENOTSUP);
}

int main(void) {
  pages_that_are_given_up_are_gone(MAP_PRIVATE);
  pages_that_are_given_up_are_gone(MAP_SHARED);
  what_is_no_ram_is_left_alone();
  endless_request_ends();
  large_requests_take_turns();
  reported_pages_are_gone(MAP_PRIVATE);
  reported_pages_are_gone(MAP_SHARED);
  statistics_come_when_they_are_asked_for();
  stops_any_number_of_times();
  older_core_is_refused();
  puts("ok");
}
