# SPDX-License-Identifier: Apache-2.0
"""What the plan says about fw_cfg: the user's items, and what firmware finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vmmcore import plan as planfile
from vmmcore.errors import UserError

from vmm_fw_cfg.plugin import FwCfgOptions, vmm_device_types, vmm_fdt_nodes, vmm_plan_ready


class Context:
    """What the plugin uses of vmmcore's PlanContext."""

    def __init__(self, arch: str = "aarch64", **config: Any) -> None:
        self.arch, self.layout = SimpleNamespace(name=arch), SimpleNamespace(extra={})
        self.config = SimpleNamespace(**{"firmware": None, "kernel": None, "initramfs": None,
                                         "cpus": SimpleNamespace(boot=2, max=4), **config})
        self.cmdline = "console=ttyAMA0"
        self.devices: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self.claims: list[tuple[int, int]] = []

    def open_file(self, path: str, option: str) -> int:
        self.fds.append(planfile.open_path(path, "r", option))
        return len(self.fds) - 1

    def fd(self, index: int) -> int:
        return self.fds[index]

    def mmio(self, base: int, length: int, owner: str) -> None:
        self.claims.append((base, length))

    ports = mmio

    def device_plan(self, key: str) -> list[dict[str, Any]]:
        return self.devices

    def add(self, text: str = "") -> None:
        """What the core does for a ``--fw-cfg``."""
        (kind,) = vmm_device_types()
        device: dict[str, Any] = {"id": "fw-cfg0", "options": {}, "resources": {}, "files": {}}
        assert kind.plan is not None
        if kind.plan(cast(Any, self), FwCfgOptions.parse(text, "--fw-cfg"), device) is not False:
            self.devices.append(device)

    def items(self) -> dict[str | int, bytes]:
        (device,) = self.devices
        result = {}
        for item in device["options"]["items"]:
            if "data" in item:
                data = item["data"]
            else:
                data = os.pread(self.fd(device["files"][item["file"]]), item["size"] + 1, 0)
                assert len(data) == item["size"]
            result[item.get("name", item.get("key"))] = data
        return result


Make = Callable[..., Context]


@pytest.fixture
def context() -> Iterator[Make]:
    made: list[Context] = []

    def make(*args: Any, **config: Any) -> Context:
        made.append(Context(*args, **config))
        return made[-1]

    yield make
    for one in made:
        planfile.close_all(one.fds)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "; " in text
    return text


def test_a_device_without_items(context: Make) -> None:
    one = context()
    one.add()
    assert one.items() == {} and one.claims == [(0x9030000, 0x1000)]
    assert one.devices[0]["resources"] == {"address": 0x9030000}
    assert vmm_fdt_nodes(cast(Any, one)) == [("fw-cfg@9030000", {
        "compatible": "qemu,fw-cfg-mmio", "reg": [0, 0x9030000, 0, 0x18], "dma-coherent": True})]
    vmm_plan_ready(cast(Any, one))  # no firmware: nothing is added
    assert one.items() == {}


def test_on_a_pc_it_has_ports(context: Make) -> None:
    one = context("x86_64")
    one.add()
    assert one.devices[0]["resources"] == {"port": 0x510} and one.claims == [(0x510, 12)]
    assert vmm_fdt_nodes(cast(Any, one)) == []


def test_items_of_the_user_are_in_one_device(context: Make, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    one = context()
    one.add("name=opt/org.example/a,string=text")
    one.add(f"opt/b,file={path}")
    one.add("name=opt/c,string=")
    assert one.items() == {"opt/org.example/a": b"text", "opt/b": b"contents", "opt/c": b""}


def test_errors_are_one_line(context: Make, tmp_path: Path) -> None:
    one = context()
    one.add("name=a,string=x")
    path = tmp_path / "empty"
    path.touch()
    for text, words in (("name=a,string=y", "two items a"), ("string=x", "--fw-cfg name=: missing"),
                        ("name=b", "needs string="), ("name=b,string=x,file=/dev/null", "needs string= or file="),
                        ("name=" + "b" * 56 + ",string=x", "--fw-cfg name="),
                        ("name=b,file=/none", "--fw-cfg file=: /none"), ("name=b,file=/dev/null", "not a regular"),
                        (f"name=b,file={path}", "not a regular file of 1 to"),
                        ("name=b,string=" + "x" * 65537, "too long")):
        assert words in refusal(lambda text=text: one.add(text))  # type: ignore[misc]
    assert one.items() == {"a": b"x"}


def test_firmware_finds_tables_and_a_kernel(context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, initramfs = tmp_path / "Image", tmp_path / "initramfs"
    kernel.write_bytes(b"MZ kernel")
    initramfs.write_bytes(b"cpio")
    loader = pytest.importorskip("vmm_acpi.loader", reason="needs vmm-acpi: pip install vmm-acpi")
    monkeypatch.setattr(loader, "loader_files", lambda blob: {"etc/acpi/rsdp": blob})
    one = context(firmware=object(), kernel=str(kernel), initramfs=str(initramfs))
    one.layout.extra.update(acpi=b"RSD PTR ", smbios=(b"_SM3_", b"tables"))
    one.add()
    vmm_plan_ready(cast(Any, one))
    assert one.items() == {
        "etc/acpi/rsdp": b"RSD PTR ", "etc/smbios/smbios-anchor": b"_SM3_", "etc/smbios/smbios-tables": b"tables",
        0x05: b"\2\0", 0x0F: b"\4\0", 0x08: b"\x09\0\0\0", 0x11: b"MZ kernel", 0x0B: b"\4\0\0\0", 0x12: b"cpio",
        0x14: b"\x10\0\0\0", 0x15: b"console=ttyAMA0\0"}


def test_firmware_without_all_that(context: Make) -> None:
    one = context(firmware=object())
    one.add("name=opt/a,string=b")
    vmm_plan_ready(cast(Any, one))
    assert one.items() == {"opt/a": b"b", 0x05: b"\2\0", 0x0F: b"\4\0"}
