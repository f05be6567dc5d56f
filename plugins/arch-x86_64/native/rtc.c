/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real-time clock and CMOS memory (Motorola MC146818, ports 0x70/0x71): the time
 * of day in UTC, settable, without alarm, periodic or update interrupts.
 */
#include <string.h>

#include "arch.h"

enum { SECONDS = 0, MINUTES = 2, HOURS = 4, WEEKDAY = 6, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D, CENTURY = 0x32 };
#define B_SET 0x80u
#define B_BINARY 0x04u
#define B_24H 0x02u

static uint8_t encode(const struct arch_rtc *rtc, int v) {
  return rtc->ram[REG_B] & B_BINARY ? (uint8_t)v : (uint8_t)((v / 10 % 10) << 4 | v % 10);
}

static int decode(const struct arch_rtc *rtc, unsigned reg) {
  int v = rtc->ram[reg];
  return rtc->ram[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

/* Put the guest's time of day into the registers. */
static void latch(struct arch_rtc *rtc) {
  struct tm tm;
  time_t now = (time_t)((int64_t)time(NULL) + rtc->offset);
  if (!gmtime_r(&now, &tm)) return;
  int year = tm.tm_year + 1900, hour = tm.tm_hour;
  rtc->ram[SECONDS] = encode(rtc, tm.tm_sec > 59 ? 59 : tm.tm_sec);
  rtc->ram[MINUTES] = encode(rtc, tm.tm_min);
  if (rtc->ram[REG_B] & B_24H) {
    rtc->ram[HOURS] = encode(rtc, hour);
  } else {
    rtc->ram[HOURS] = (uint8_t)(encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
  }
  rtc->ram[WEEKDAY] = encode(rtc, tm.tm_wday + 1);
  rtc->ram[DAY] = encode(rtc, tm.tm_mday);
  rtc->ram[MONTH] = encode(rtc, tm.tm_mon + 1);
  rtc->ram[YEAR] = encode(rtc, year % 100);
  rtc->ram[CENTURY] = encode(rtc, year / 100);
}

/* The guest has written the registers: from now on its clock differs from ours by this much. */
static void set_clock(struct arch_rtc *rtc) {
  struct tm tm;
  memset(&tm, 0, sizeof(tm));
  int hour = rtc->ram[HOURS];
  tm.tm_sec = decode(rtc, SECONDS);
  tm.tm_min = decode(rtc, MINUTES);
  if (rtc->ram[REG_B] & B_24H) {
    tm.tm_hour = decode(rtc, HOURS);
  } else {
    int h12 = rtc->ram[REG_B] & B_BINARY ? hour & 0x7f : ((hour >> 4) & 7) * 10 + (hour & 15);
    tm.tm_hour = h12 % 12 + (hour & 0x80 ? 12 : 0);
  }
  tm.tm_mday = decode(rtc, DAY);
  tm.tm_mon = decode(rtc, MONTH) - 1;
  tm.tm_year = decode(rtc, CENTURY) * 100 + decode(rtc, YEAR) - 1900;
  rtc->offset = (int64_t)timegm(&tm) - (int64_t)time(NULL);
}

static int is_time(unsigned reg) {
  return reg == SECONDS || reg == MINUTES || reg == HOURS || (reg >= WEEKDAY && reg <= YEAR) || reg == CENTURY;
}

static uint8_t rtc_read(struct arch_rtc *rtc) {
  unsigned reg = rtc->index;
  if (is_time(reg) && !(rtc->ram[REG_B] & B_SET)) latch(rtc);
  if (reg == REG_C) return 0;    /* no interrupt is ever pending */
  if (reg == REG_D) return 0x80; /* battery good: contents valid */
  return rtc->ram[reg];
}

static void rtc_write(struct arch_rtc *rtc, uint8_t value) {
  unsigned reg = rtc->index;
  if (reg == REG_C || reg == REG_D) return;
  if (reg == REG_A) value &= 0x7f; /* update in progress: read only, and always over already */
  if (reg == REG_B) {
    if (value & B_SET && !(rtc->ram[REG_B] & B_SET)) latch(rtc);
    if (!(value & B_SET) && rtc->ram[REG_B] & B_SET) {
      rtc->ram[REG_B] = value;
      set_clock(rtc);
    }
  }
  if (is_time(reg) && !(rtc->ram[REG_B] & B_SET)) {
    latch(rtc);
    rtc->ram[reg] = value;
    set_clock(rtc);
    return;
  }
  rtc->ram[reg] = value;
}

void arch_rtc_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct arch_rtc *rtc = opaque;
  uint8_t *bytes = data;
  pthread_mutex_lock(&rtc->lock);
  for (uint32_t i = 0; i < size; i++, offset++) { /* a wide access is two byte accesses */
    if (offset == 0 && is_write) rtc->index = bytes[i] & 0x7f; /* bit 7 masks NMI on real boards */
    if (offset == 1 && is_write) rtc_write(rtc, bytes[i]);
    if (offset == 1 && !is_write) bytes[i] = rtc_read(rtc);
  }
  pthread_mutex_unlock(&rtc->lock);
}

void arch_rtc_init(struct arch_rtc *rtc, uint64_t low_ram, uint64_t high_ram) {
  memset(rtc->ram, 0, sizeof(rtc->ram));
  rtc->index = 0;
  rtc->offset = 0;
  rtc->ram[REG_A] = 0x26; /* 32.768 kHz time base, 1024 Hz rate */
  rtc->ram[REG_B] = B_24H;
  /* Memory sizes where firmware looks: above 16 MiB (0x34) and above 4 GiB (0x5b), in 64 KiB. */
  uint64_t low = low_ram > 16 << 20 ? (low_ram - (16 << 20)) >> 16 : 0, high = high_ram >> 16;
  rtc->ram[0x34] = (uint8_t)low, rtc->ram[0x35] = (uint8_t)(low >> 8);
  rtc->ram[0x5b] = (uint8_t)high, rtc->ram[0x5c] = (uint8_t)(high >> 8), rtc->ram[0x5d] = (uint8_t)(high >> 16);
}
