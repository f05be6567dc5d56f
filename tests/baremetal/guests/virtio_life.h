/* SPDX-License-Identifier: Apache-2.0 */
/* For virtio_hostile.c: status, features, queue_enable and resets in the wrong order. */
#ifndef VIRTIO_LIFE_H
#define VIRTIO_LIFE_H

/* --- life cycle --- */

CASE(driver_ok_without_features_ok)
{
    WANT(reset_device());
    w8(STATUS, S_ACK | S_DRIVER);
    w8(STATUS, S_ACK | S_DRIVER | S_OK);
    WANT(!(r8(STATUS) & S_OK));
    kick(main_queue);
    linger();
}
CASE(driver_ok_alone)
{
    WANT(reset_device());
    w8(STATUS, S_OK);
    linger();
}
CASE(status_of_all_ones)
{
    WANT(reset_device());
    w8(STATUS, 0xff);
    linger();
}
CASE(features_that_are_not_offered)
{
    WANT(reset_device());
    WANT(!negotiate(~0ul));
    WANT(reset_device());
    WANT(!negotiate((offered | F_VERSION_1) ^ 1ul << 50));
    w8(STATUS, S_ALL);
    linger();
    WANT(!(r8(STATUS) & S_OK));
}
CASE(features_without_version_1)
{
    WANT(reset_device());
    WANT(!negotiate(0));
    WANT(reset_device());
    WANT(!negotiate(F_INDIRECT));
}
CASE(features_changed_while_it_runs)
{
    write_features(~0ul);
    write_features(0);
    w8(STATUS, S_ALL);
    want_alive();
}
CASE(driver_ok_without_queues)
{
    WANT(reset_device() && negotiate(features));
    w8(STATUS, S_ALL);
    for (u32 q = 0; q < 8; q++)
        kick(q);
    want_alive();
}
CASE(queues_enabled_before_features_ok)
{
    WANT(reset_device());
    for (u16 q = 0; q < 8; q++) {
        w16(QUEUE_SELECT, q);
        w16(QUEUE_ENABLE, 1);
        WANT(r16(QUEUE_ENABLE) == 0);
    }
}
CASE(queue_select_out_of_range)
{
    static const u16 picks[] = {1023, 1024, 0x7fff, 0x8000, 0xffff};
    WANT(reset_device() && negotiate(features));
    for (u32 n = 0; n < 5; n++) {
        w16(QUEUE_SELECT, picks[n]);
        WANT(r16(QUEUE_SIZE) == 0);
        w16(QUEUE_SIZE, 4);
        set_addresses(DESC, AVAIL, USED);
        w16(QUEUE_VECTOR, 0);
        w16(QUEUE_ENABLE, 1);
        w16(QUEUE_RESET, 1);
        WANT(r16(QUEUE_ENABLE) == 0 && r16(QUEUE_SIZE) == 0);
    }
    w8(STATUS, S_ALL);
    want_alive();
}
CASE(queue_moved_while_it_runs)
{
    w16(QUEUE_SELECT, (u16)main_queue);
    set_addresses(HOLE, HOLE, HOLE);
    w16(QUEUE_SIZE, 2);
    w16(QUEUE_ENABLE, 0);
    WANT(r32(QUEUE_DESC) == (u32)DESC);
    kick(main_queue);
    want_alive();
}
CASE(queue_enabled_while_it_runs)
{
    WANT(bring_up(features, 0));
    linger();
    for (u32 q = 0; q < queues; q++)
        setup_queue(q);
    kick(main_queue);
    want_alive();
}
CASE(queue_reset_again_and_again)
{
    for (u32 n = 0; n < 20; n++) {
        w16(QUEUE_SELECT, (u16)(n % queues));
        w16(QUEUE_RESET, 1);
        w16(QUEUE_ENABLE, 1);
        kick(n % queues);
        w16(QUEUE_RESET, 0);
    }
    linger();
}
CASE(queue_reset_without_negotiation)
{
    WANT(bring_up(features & ~F_RING_RESET, queues));
    w16(QUEUE_SELECT, (u16)main_queue);
    w16(QUEUE_RESET, 1);
    WANT(r16(QUEUE_ENABLE) == 1);
    want_alive();
}
CASE(reset_in_mid_request)
{
    for (u32 n = 0; n < 20; n++) {
        WANT(bring_up(features, queues));
        for (u32 k = 0; k < 8; k++) {
            put(main_queue, k, (u64)data, DATA_SIZE, 0, 0);
            make_available(main_queue, (u16)k);
        }
        w8(STATUS, 0);
        kick(main_queue);
    }
}
CASE(reset_and_on_without_waiting)
{
    for (u32 n = 0; n < 20; n++) {
        w8(STATUS, 0);
        negotiate(features);
        for (u32 q = 0; q < queues; q++)
            setup_queue(q);
        w8(STATUS, S_ALL);
        kick(main_queue);
    }
    linger();
}
CASE(reset_many_times)
{
    for (u32 n = 0; n < 300; n++)
        w8(STATUS, 0);
}
CASE(failed_by_the_driver)
{
    w8(STATUS, S_ALL | S_FAILED);
    kick(main_queue);
    linger();
}
CASE(needs_reset_by_the_driver)
{
    w8(STATUS, S_ALL | S_NEEDS_RESET);
    WANT(!(r8(STATUS) & S_NEEDS_RESET));
    want_alive();
}
#endif
