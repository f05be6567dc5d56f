# SPDX-License-Identifier: Apache-2.0
"""`Vm.reload_device`: a device's changed source comes into the running VM; the guest keeps its driver bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmmcore import DeviceConfig, GuestError, Vm, VmConfig, VmmError
from vmmcore.virtio import Queue, VirtioDevice

baremetal = pytest.importorskip(
    "vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit"
)

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
)

# It sets the device up once, waits for the new code, and looks whether what it set up is still there.
GUEST = """
#include "guest.h"
enum { VECTOR = 0x60 };
int main(struct hvm_start_info *si) {
  (void)si;
  int bdf = pci_find(0x1234, 0x0099);
  CHECK(bdf >= 0, "no device, %d", bdf);
  pci_cfg_write16(bdf, 4, pci_cfg_read16(bdf, 4) | 6);
  u64 bar = pci_bar_address(bdf, 0), table = pci_bar_address(bdf, 1);
  map(bar & ~0x1ffffful, 0x200000, 1);
  map(table & ~0x1ffffful, 0x200000, 1);
  pci_bar_move(bdf, 0, bar + 0x10000);
  bar += 0x10000;
  mmio_write32(table, 0xfee00000);
  mmio_write32(table + 4, 0);
  mmio_write32(table + 8, VECTOR);
  mmio_write32(table + 12, 0);
  u8 cap = pci_find_capability(bdf, 0x11);
  pci_cfg_write16(bdf, cap + 2, 0x8000);
  mmio_write32(bar + 4, 77);   /* KEPT */
  mmio_write32(bar + 12, 1);   /* READY */
  puts("ready\\n");
  while (mmio_read32(bar) == 1) pause();
  CHECK(mmio_read32(bar) == 2, "version %x", mmio_read32(bar));
  CHECK(mmio_read32(bar + 4) == 77, "kept %d", mmio_read32(bar + 4));
  CHECK(mmio_read32(bar + 0x10) == 1077, "a register of the new code: %d", mmio_read32(bar + 0x10));
  mmio_write32(bar + 8, 1);    /* BELL */
  irq_enable();
  CHECK(spin_until(&irq_count[VECTOR], 1, 0), "interrupts: %d", irq_count[VECTOR]);
  irq_disable();
  return 0;
}
"""

DEVICE = """
from vmmcore import PciDevice, Register, RegisterMap
import helper

class Regs(RegisterMap):
    VERSION = Register(0, access="ro", reset=1)
    KEPT = Register(4)
    BELL = Register(8, access="wo")
    READY = Register(12)

class Board(PciDevice):
    vendor_id, device_id = 0x1234, 0x0099

    def realize(self):
        self.seen = 0
        self.regs = self.add_registers(0, Regs)
        self.add_msix(1, 1)

    def on_write_KEPT(self, value):
        self.seen = value + helper.MORE

    def counters(self):
        return {"seen": self.seen, "ready": self.regs.READY}

    def save(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]
"""

NEW = (
    DEVICE.replace("reset=1)", "reset=1)\n    EXTRA = Register(0x10, access='ro')")
    + """
    def on_read_VERSION(self):
        return helper.VERSION

    def on_read_EXTRA(self):
        return self.seen

    def on_write_BELL(self, value):
        self.msix[0].signal()
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "board.py").write_text(DEVICE)
    (tmp_path / "helper.py").write_text("MORE = 1000\nVERSION = 1\n")
    return tmp_path


@pytest.fixture
def vm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vm]:
    monkeypatch.syspath_prepend(str(folder))
    config = VmConfig(
        kernel=baremetal.BareMetal(GUEST, name="reload.c").build(),
        memory="32M",
        plugins=[str(folder / "board.py")],
        devices=[DeviceConfig("serial", "null")],
    )
    with Vm(config) as made:
        made.boot()
        while made.counters()[board(made)].get("ready") != 1:
            assert made.wait(0.01) is None
        yield made


def board(vm: Vm) -> str:
    return next(str(device["id"]) for device in vm.info()["devices"] if device["type"] == "Board")


def test_the_guest_goes_on_with_the_new_code(vm: Vm, folder: Path) -> None:
    events: list[str] = []
    vm.on_event(lambda event, data: events.append(f"{event} {data.get('device', '')}"))
    (folder / "board.py").write_text(NEW)
    (folder / "helper.py").write_text("MORE = 1000\nVERSION = 2\n")  # of the same length, in the same second
    name = board(vm)
    vm.reload_device(name)
    assert vm.wait(60) == 0
    assert f"device-reloaded {name}" in events


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (NEW + "\n  )", "IndentationError"),
        ("import nothing_like_it\n" + NEW, "ModuleNotFoundError"),
        (NEW.replace("class Board", "class Bored"), "Board"),
        (NEW.replace("self.seen = 0", "self.seen = 1 // 0"), "board.py:16"),
        (NEW.replace("on_write_BELL", "on_write_BEL"), "on_write_BEL"),
        (NEW.replace('self.seen = state["seen"]', "1 // 0"), "ZeroDivisionError"),
        (NEW.replace("self.add_msix(1, 1)", "self.add_msix(1, 2)"), "another device"),
        (NEW + "\n    def activate(self):\n        raise RuntimeError('not today')\n", "not today"),
    ],
    ids=["syntax", "import", "class gone", "realize", "handler", "restore", "other device", "activate"],
)
def test_an_error_keeps_the_old_code(vm: Vm, folder: Path, source: str, what: str) -> None:
    name = board(vm)
    (folder / "board.py").write_text(source)
    with pytest.raises(GuestError, match=what) as caught:
        vm.reload_device(name)
    assert "\n" not in str(caught.value)
    assert "keeps its old code" in str(caught.value)
    assert vm.info()["state"] == "running"
    assert vm.counters()[name]["seen"] == 1077
    # the guest, its interrupt vector and the moved BAR are as they were: the next attempt gets it to its end
    (folder / "board.py").write_text(NEW)
    (folder / "helper.py").write_text("MORE = 1000\nVERSION = 2\n")
    vm.reload_device(name)
    assert vm.wait(60) == 0


def test_a_new_object_that_is_not_taken_is_removed_once(vm: Vm, folder: Path) -> None:
    log = folder / "log"
    told = f"""
    def remove(self):
        with open({str(log)!r}, "a") as file:
            file.write("let go ")
"""
    (folder / "board.py").write_text(NEW.replace("on_write_BELL", "on_write_BEL") + told)
    with pytest.raises(GuestError, match="on_write_BEL"):
        vm.reload_device(board(vm))
    assert log.read_text() == "let go "


def test_while_paused(vm: Vm, folder: Path) -> None:
    vm.pause()
    (folder / "board.py").write_text(NEW)
    (folder / "helper.py").write_text("MORE = 1000\nVERSION = 2\n")
    vm.reload_device(board(vm))
    assert vm.info()["state"] == "paused"
    vm.resume()
    assert vm.wait(60) == 0


def test_what_cannot_be_reloaded(vm: Vm) -> None:
    with pytest.raises(GuestError, match="no device 'nope'"):
        vm.reload_device("nope")
    serial = next(str(device["id"]) for device in vm.info()["devices"] if device["type"] != "Board")
    with pytest.raises(GuestError, match="no PCI device"):
        vm.reload_device(serial)


class Upper(VirtioDevice):
    virtio_id = 63
    queue_sizes = (8, 8)

    def configure(self) -> None:
        self.served = 0

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.served += 1
            chain.write(chain.read().upper())

    def save(self) -> dict[str, Any]:
        return {"served": self.served}

    def restore(self, state: dict[str, Any]) -> None:
        self.served = state["served"]


class Lower(Upper):
    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.served += 1
            chain.write(chain.read().lower() + b"%d" % self.served)


class Broken(Upper):
    def restore(self, state: dict[str, Any]) -> None:
        raise ValueError("no")


def test_virtio_rings_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmm_testkit.virtio import VirtioDriver

    from vmmcore.machine import reload

    with VirtioDriver(Upper) as driver:
        driver.start()
        machine: Any = driver.machine
        machine.state = "running"
        for _ in range(9):  # once round the ring
            assert driver.request(1, out=[b"Abc"], in_=[8]).data == b"ABC"
        driver.enable_msix()
        monkeypatch.setattr(reload, "device_class", lambda spec: Broken)
        with pytest.raises(VmmError, match="keeps its old code: ValueError: no"):
            reload.reload_device(machine, "dev0")
        assert driver.request(1, out=[b"Abc"], in_=[8]).data == b"ABC"
        monkeypatch.setattr(reload, "device_class", lambda spec: Lower)
        reload.reload_device(machine, "dev0")
        assert driver.request(1, out=[b"Abc"], in_=[8]).data == b"abc11"
        assert driver.request(0, out=[b"Q0"], in_=[8]).data == b"q012"
        driver.device = machine.devices["dev0"]
        driver.reset()
        driver.start()
        assert driver.request(0, out=[b"Q"], in_=[8]).data == b"q13"


def test_a_signal_reloads_what_has_changed(folder: Path) -> None:
    elf = baremetal.BareMetal(GUEST, name="reload.c").build()
    vmm = Path(sys.executable).with_name("vmm")
    command = [vmm, "run", "--kernel", elf, "--memory", "32M", "--serial", "tty", "--plugin", folder / "board.py"]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          env=env) as run:  # fmt: skip
        try:
            assert run.stdout is not None
            assert run.stderr is not None
            assert run.stdout.readline() == "ready\n"
            for source, answer in ((None, "nothing to reload"), ("1 +", "board0 keeps its old code: SyntaxError")):
                if source is not None:
                    (folder / "board.py").write_text(source)
                run.send_signal(signal.SIGUSR1)
                assert answer in run.stderr.readline()
            (folder / "board.py").write_text(NEW)
            (folder / "helper.py").write_text("MORE = 1000\nVERSION = 2\n")
            run.send_signal(signal.SIGUSR1)
            assert run.stderr.readline() == "vmm: board0: reloaded\n"
            assert run.wait(60) == 0
        finally:
            run.kill()


def test_a_class_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "boards_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("MORE = 1000\nVERSION = 1\n")
    (package / "board.py").write_text(DEVICE.replace("import helper", "from . import part as helper"))
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("boards_of_test.board")
    config = VmConfig(
        kernel=baremetal.BareMetal(GUEST, name="reload.c").build(),
        memory="32M",
        devices=[DeviceConfig("serial", "null"), sys.modules["boards_of_test.board"].Board],
    )
    with Vm(config) as vm:
        vm.boot()
        while vm.counters()[board(vm)].get("ready") != 1:
            assert vm.wait(0.01) is None
        (package / "part.py").write_text("MORE = 1000\nVERSION = 2\n")
        (package / "board.py").write_text(NEW.replace("import helper", "from . import part as helper"))
        vm.reload_device(board(vm))
        assert vm.wait(60) == 0
