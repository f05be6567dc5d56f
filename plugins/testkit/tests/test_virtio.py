# SPDX-License-Identifier: Apache-2.0
"""The virtio driver against devices in Python: every kind of ring, every step of the life cycle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtio_devices import ECHO, Echo, InOrder
from vmmcore import VmmError
from vmmcore.virtio import F_EVENT_IDX, F_IN_ORDER, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1

from vmm_testkit.virtio import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    NEEDS_RESET,
    NO_VECTOR,
    VirtioDriver,
    VirtioError,
)

pytestmark = pytest.mark.needs_kvm

RINGS = {
    "split": F_RING_PACKED | F_INDIRECT_DESC | F_EVENT_IDX,
    "split-event": F_RING_PACKED | F_INDIRECT_DESC,
    "split-all": F_RING_PACKED,
    "packed": F_INDIRECT_DESC | F_EVENT_IDX,
    "packed-all": 0,
}


@pytest.fixture
def echo() -> Iterator[VirtioDriver]:
    with VirtioDriver(Echo, options={"packed": True}) as driver:
        yield driver


@pytest.mark.parametrize("without", RINGS.values(), ids=RINGS.keys())
@pytest.mark.parametrize("msix", [True, False], ids=["msix", "intx"])
def test_requests(echo: VirtioDriver, without: int, msix: bool) -> None:
    features = echo.start(without=without, msix=msix)
    assert features == echo.offered & ~without
    for n in range(300):  # several laps, and over the ring's end
        data = bytes(n + i & 0xFF for i in range(n % 50 + 1))
        reply = echo.request(0, out=[data[:7], data[7:]][: 1 + (n % 3 > 0)], in_=[5, 100])
        wanted = data if n % 3 else data[:7]
        assert reply.data == wanted
        assert reply.length == len(wanted)
    if features & F_INDIRECT_DESC:
        assert echo.request(0, out=[b"a"] * 20, in_=[1] * 30, indirect=True).data == b"a" * 20


@pytest.mark.parametrize("without", RINGS.values(), ids=RINGS.keys())
def test_many_at_once_and_out_of_order(echo: VirtioDriver, without: int) -> None:
    echo.start(without=without)
    for _ in range(5):
        tokens = [echo.submit(1, [b"%d" % n], [16]) for n in range(20)]
        echo.wait_until(lambda: len(echo.device.kept) == 20, "twenty requests")  # type: ignore[attr-defined]
        order = [n * 7 % 20 for n in range(20)]
        echo.device.release(order)  # type: ignore[attr-defined]
        echo.device.kept.clear()  # type: ignore[attr-defined]
        for n, token in enumerate(tokens):
            assert echo.wait(1, token).data == b"%d" % n


def test_in_order() -> None:
    with VirtioDriver(InOrder, options={"packed": True}) as driver:
        for without in RINGS.values():
            assert driver.start(without=without) & F_IN_ORDER
            tokens = [driver.submit(0, [b"%d" % n], [16], kick=False) for n in range(10)]
            driver.kick(0)
            for n, token in enumerate(tokens):
                assert driver.wait(0, token).pieces[0].rstrip(b"\0") == b"%d" % n


def test_registers(echo: VirtioDriver) -> None:
    assert echo.pci.read(2, 2) == 0x1040 + ECHO
    assert echo.common("num_queues") == 4
    echo.set_common("queue_select", 2)
    assert echo.common("queue_size") == 8
    echo.set_common("queue_select", 4)
    assert echo.common("queue_size") == 0
    assert echo.config_bytes(0, 16) == bytes(range(16))
    assert echo.config_read(4, 8) == int.from_bytes(bytes(range(4, 12)), "little")
    assert echo.config_size >= 16
    assert echo.shared == {}
    assert echo.vectors >= 5


def test_interrupts(echo: VirtioDriver) -> None:
    echo.start()
    assert echo.interrupts() == set()
    echo.request(0, [b"x"], [1])
    assert echo.interrupts() == {1}
    echo.request(3, [b"x"], [1])
    assert echo.interrupts() == {4}
    echo.queues[0].want_interrupts(False)
    token = echo.submit(0, [b"x"], [1])
    echo.settle()
    assert echo.interrupts() == set()
    assert [done.id for done in echo.collect(0)] == [token.id]
    echo.device.update_config(0, b"\xaa")
    assert echo.interrupts() == {0}
    assert echo.isr() == 0


def test_intx(echo: VirtioDriver) -> None:
    echo.start(msix=False)
    assert echo.isr() == 0
    echo.request(0, [b"x"], [1])
    assert echo.isr() == 1
    assert echo.isr() == 0
    echo.device.update_config(0, b"\xaa")
    assert echo.pci.read(6, 2) & 8  # interrupt status
    assert echo.isr() == 2
    assert not echo.pci.read(6, 2) & 8
    echo.request(0, [b"x"], [1])
    echo.device.update_config(0, b"\xbb")
    assert echo.isr() == 3


def test_configuration(echo: VirtioDriver) -> None:
    echo.start()
    before = echo.generation
    echo.device.update_config(2, b"\x55\x66")
    assert echo.generation != before
    assert echo.config_read(2, 2) == 0x6655
    echo.config_write(8, 4, 0x11223344)  # writable
    echo.config_write(4, 4, 0xFFFFFFFF)  # not
    assert echo.config_read(8, 4) == 0x11223344
    assert echo.config_read(4, 4) == 0x07060504
    assert echo.device.config_writes == 1  # type: ignore[attr-defined]


def test_sparse_queues_of_other_sizes(echo: VirtioDriver) -> None:
    echo.start(without=F_RING_PACKED, queues={0: 4, 2: 2})
    assert echo.device.active == [0, 2]  # type: ignore[attr-defined]
    for _ in range(9):
        assert echo.request(0, [b"ab"], [4]).data == b"ab"
        assert echo.request(2, [b"cd"], [4]).data == b"cd"
    assert echo.interrupts() == {1, 3}
    echo.start(queues=[3], size=200)
    assert echo.device.active == [3]  # type: ignore[attr-defined]
    assert echo.request(3, [b"ef"], [4]).data == b"ef"


def test_reset_and_other_features(echo: VirtioDriver) -> None:
    for n in range(20):
        agreed = echo.start(without=list(RINGS.values())[n % 5], queues=[[0], [0, 1, 2, 3], [2, 0]][n % 3])
        assert echo.device.features == agreed
        assert echo.request(0, [b"%d" % n], [8]).data == b"%d" % n
    echo.reset()
    assert echo.device.starts == echo.device.stops == 20  # type: ignore[attr-defined]
    assert echo.device.features == 0
    for name in ("config_msix_vector", "queue_msix_vector"):
        assert echo.common(name) == NO_VECTOR


def test_reset_with_requests_in_flight(echo: VirtioDriver) -> None:
    echo.start()
    for n in range(5):
        echo.submit(1, [b"%d" % n], [16])
    echo.wait_until(lambda: len(echo.device.kept) == 5, "five requests")  # type: ignore[attr-defined]
    kept = list(echo.device.kept)  # type: ignore[attr-defined]
    echo.start()
    for request in kept:
        request.push(0)  # of the old activation: nothing happens
    echo.settle()
    assert echo.collect(1) == []
    assert echo.request(0, [b"new"], [8]).data == b"new"


def test_pause_goes_on_where_it_was(echo: VirtioDriver) -> None:
    for without in RINGS.values():
        echo.start(without=without)
        for _ in range(50):
            echo.request(0, [b"x"], [1])
        echo.machine.pause()
        assert not echo.device.running
        token = echo.submit(0, [b"later"], [8])
        echo.settle()
        assert not echo.collect(0)
        echo.machine.resume()
        assert echo.wait(0, token).data == b"later"


def test_queue_reset(echo: VirtioDriver) -> None:
    for without in RINGS.values():
        echo.start(without=without)
        echo.submit(1, [b"lost"], [16])
        assert echo.request(0, [b"a"], [1]).data == b"a"
        echo.reset_queue(0)
        assert echo.request(3, [b"b"], [1]).data == b"b"
        echo.setup_queue(0, 16)
        assert echo.request(0, [b"c"], [1]).data == b"c"


def test_features_are_checked(echo: VirtioDriver) -> None:
    for refused in (
        0,
        1,  # without VERSION_1
        F_VERSION_1 | 1 << 20,  # not offered
        F_VERSION_1 | 1 << 1,  # feature_requires: bit 0
        F_VERSION_1 | 1 << 2,  # check_features: bit 0
    ):
        echo.reset()
        with pytest.raises(VirtioError, match="FEATURES_OK refused"):
            echo.negotiate(refused)
        assert echo.status == ACKNOWLEDGE | DRIVER
    for taken in (F_VERSION_1, F_VERSION_1 | 1 | 2, F_VERSION_1 | 1 | 4):
        echo.reset()
        assert echo.negotiate(taken) == taken


def test_a_broken_ring_needs_a_reset(echo: VirtioDriver, capfd: pytest.CaptureFixture[str]) -> None:
    echo.start(without=F_RING_PACKED)
    queue = echo.queues[0]
    queue.write_desc(0, 0xFEE0_0000, 16)  # type: ignore[attr-defined]
    queue.make_available(0)  # type: ignore[attr-defined]
    echo.kick(0, force=True)
    echo.wait_until(lambda: bool(echo.status & NEEDS_RESET), "NEEDS_RESET")
    assert echo.interrupts() == {0}
    assert [name for name, _ in echo.told] == ["device-failed"]
    assert "outside of memory" in capfd.readouterr().err
    echo.start()
    assert echo.status == ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    assert echo.request(0, [b"again"], [8]).data == b"again"


def test_rings_outside_of_memory(echo: VirtioDriver) -> None:
    echo.reset()
    echo.negotiate()
    echo.setup_queue(0, enable=False)
    echo.set_common("queue_device", 0xFEE0_0000)
    echo.set_common("queue_enable", 1)
    with pytest.raises(VirtioError, match="NEEDS_RESET"):
        echo.driver_ok()
    assert not echo.device.running
    echo.start()
    assert echo.request(0, [b"again"], [8]).data == b"again"


def test_waiting_has_an_end(echo: VirtioDriver) -> None:
    echo.start()
    token = echo.submit(1, [b"kept"], [8])
    with pytest.raises(VirtioError, match=r"a request in queue 1: not within 0\.1 s"):
        echo.wait(1, token, timeout=0.1)


def test_save_and_restore(echo: VirtioDriver) -> None:
    echo.start(queues=[0, 2])
    for _ in range(70):
        echo.request(0, [b"x"], [1])
    echo.machine.pause()
    state = echo.device._save()
    token = echo.submit(0, [b"moved"], [8], kick=False)
    with VirtioDriver(Echo, options={"packed": True}) as other:
        other.machine.pause()
        for gpa, size in echo.memory.regions:
            other.memory.view(gpa, size)[:] = echo.memory.view(gpa, size)
        other.device._restore(state)
        other.machine.resume()
        other.wait_until(lambda: other.device.seen == [b"moved"], "the request")  # type: ignore[attr-defined]
        other.settle()
        echo.memory.view(*echo.memory.regions[0])[:] = other.memory.view(*other.memory.regions[0])
    assert [done.id for done in echo.queues[0].collect()] == [token.id]


def test_a_device_of_the_command_line(tmp_path: Path) -> None:
    plugin = tmp_path / "echo_plugin.py"
    plugin.write_text(
        "from vmmcore.virtio import VirtioDevice\n"
        "class Echo(VirtioDevice):\n"
        "    virtio_id = 63\n"
        "    def handle(self, queue):\n"
        "        for chain in queue:\n"
        "            chain.write(chain.read() + self.options['word'].encode())\n"
    )
    with VirtioDriver.flag("--plugin", f"{plugin},word=ja") as driver:
        driver.start()
        assert driver.request(0, [b"o"], [10]).data == b"oja"
    with pytest.raises(VmmError, match="pvpanic"):
        VirtioDriver.flag("--pvpanic", "enabled=perhaps")


def test_nothing_is_left_behind() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with VirtioDriver(Echo) as driver:
        driver.start()
    before = count()
    for _ in range(3):
        with VirtioDriver(Echo) as driver:
            driver.start()
            driver.submit(1, [b"x"], [1])
            driver.machine.remove_device(driver.device.id)
    assert count() == before
