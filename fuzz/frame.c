/* SPDX-License-Identifier: Apache-2.0 */
/* What the fake KVM of tests/native wants of a test's main.c. */
#include "harness.h"

void test_fail(const char *file, int line, const char *what) {
  fprintf(stderr, "%s:%d: %s\n", file, line, what);
  abort();
}

void test_fail_values(const char *file, int line, const char *what, long long a, long long b) {
  fprintf(stderr, "%s:%d: %s: %lld and %lld\n", file, line, what, a, b);
  abort();
}
