/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that breaks every rule, once each, against virtio device DEVICE. Before each case the device is reset and
 * set up anew, after it the device is reset and has to answer a well-formed request. Prints "CASE name ok", or what
 * went wrong. The cases are in the headers; a second CPU helps where the name says "race".
 */
#include "virtio_driver.h"

static const char *failure;
static u64 features; /* what the cases negotiate */
static u32 queues; /* how many they set up */
static u32 main_queue; /* the one that requests go to */
#define RAM_END ((u64)RAM_MIB << 20)
#define HOLE 0xd0000000ul /* PCI's window: addresses that nobody has */

static void fail(const char *why) { if (!failure) failure = why; }
#define WANT(condition) do { if (!(condition)) fail(#condition); } while (0)

/* A little time in which a device can do what it must not. */
static void linger(void)
{
    for (u32 n = 0; n < 30; n++)
        (void)r8(STATUS);
}

/* The device has noticed that the ring is impossible. The host's kernel (vhost), where it has the ring, need not say so. */
static void want_broken(void)
{
    if (KERNEL_HAS_RINGS)
        linger();
    else if (!wait_status(S_NEEDS_RESET))
        fail("no NEEDS_RESET");
}

static void want_alive(void)
{
    linger();
    if ((r8(STATUS) & (S_NEEDS_RESET | S_OK)) != S_OK)
        fail("NEEDS_RESET for something harmless");
}

#include "virtio_cases.h"
#include "virtio_rings.h"
#include "virtio_life.h"
#include "virtio_registers.h"
#include "virtio_races.h"

extern const struct test_case first_case[] __asm__("__start_cases"), last_case[] __asm__("__stop_cases");

static int well(void)
{
    if (!bring_up(features, queues))
        return fail("not up after it"), 0;
    return works();
}

int main(struct hvm_start_info *si)
{
    (void)si;
    if (!find_device(DEVICE)) {
        printf("FAIL there is no virtio device %u\n", DEVICE);
        return 254;
    }
    offered = read_offered();
    features = offered & (F_VERSION_1 | F_INDIRECT | F_RING_RESET);
    w16(QUEUE_SELECT, 0);
    queues = r16(NUM_QUEUES) < 2 ? r16(NUM_QUEUES) : 2;
    main_queue = DEVICE == NET || DEVICE == CONSOLE;
    if (CPUS > 1)
        CHECK(smp_start(1, 1, racer, 0), "no second CPU");
    if (!well()) {
        printf("FAIL it does not work to begin with: %s\n", failure);
        return 253;
    }
    u32 bad = 0, n = 0;
    for (const struct test_case *c = first_case; c < last_case; c++, n++) {
        if (c->device && c->device != DEVICE)
            continue;
        failure = 0;
        memset((void *)data, 0x5a, sizeof data);
        if (!bring_up(features, queues))
            fail("not up before it");
        c->run();
        race = 0;
        if (!reset_device())
            fail("no reset");
        well();
        if (failure)
            bad++;
        printf("CASE %s %s%s\n", c->name, failure ? "FAILED: " : "ok", failure ? failure : "");
    }
    return bad ? 1 : 0;
}
