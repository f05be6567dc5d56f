# SPDX-License-Identifier: Apache-2.0
"""What --firmware makes of its files: banks, the file of the variables, the node of the device tree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vmmcore import plan as planfile
from vmmcore.errors import UserError
from vmmcore.front.config import Firmware

from vmm_flash.plugin import vmm_boot_probe, vmm_fdt_nodes

MIB = 1 << 20


def firmware(size: int = 2 * MIB, volume: int = 0x1000) -> bytes:
    """As EDK2 builds it: a branch, and a firmware volume behind it."""
    data = bytearray(b"\xff" * size)
    data[:4] = 0x14000400.to_bytes(4, "little")
    data[volume : volume + 40] = bytes(16) + b"\x11" * 16 + size.to_bytes(8, "little")
    data[volume + 40 : volume + 44] = b"_FVH"
    return bytes(data)


class Context:
    """What the plugin uses of vmmcore's PlanContext."""

    def __init__(self, config: Firmware | None, arch: str = "aarch64", dry_run: bool = False) -> None:
        self.config, self.arch = SimpleNamespace(firmware=config), SimpleNamespace(name=arch)
        self.dry_run = dry_run
        self.plan: dict[str, Any] = {"devices": []}
        self.fds: list[int] = []
        self.claims: list[tuple[int, int]] = []

    def open_file(self, path: str, option: str, mode: str = "r", *, lock: bool = False) -> int:
        self.fds.append(planfile.open_path(path, mode, option, lock=lock))
        return len(self.fds) - 1

    def adopt_fd(self, fd: int, description: dict[str, Any]) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1

    def fd(self, index: int) -> int:
        return self.fds[index]

    def mmio(self, base: int, length: int, owner: str) -> None:
        self.claims.append((base, length))

    def device_plan(self, key: str) -> list[dict[str, Any]]:
        return [device for device in self.plan["devices"] if device["type"] == key]

    def variables(self) -> bytes:
        (device,) = self.device_plan("flash")
        fd = self.fd(device["files"]["vars"])
        assert device["resources"]["vars"] == [64 * MIB, os.fstat(fd).st_size]
        return os.pread(fd, 65 * MIB, 0)

    def close(self) -> None:
        planfile.close_all(self.fds)


Plan = Callable[..., Context]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "CODE.fd"
    path.write_bytes(firmware())
    return path


@pytest.fixture
def plan(code: Path) -> Iterator[Plan]:
    """plan(arch=, dry_run=, vars=, template=) -> the context after planning the firmware `code`"""
    contexts = []

    def run(arch: str = "aarch64", dry_run: bool = False, **options: Path) -> Context:
        context = Context(Firmware(path=code, **options), arch, dry_run)
        contexts.append(context)
        data = code.read_bytes()
        claim = vmm_boot_probe(str(code), data[:65536], len(data))
        assert claim is not None
        assert claim.plan(cast(Any, context)) == {"protocol": "firmware", "pc": 0}
        return context

    yield run
    for context in contexts:
        context.close()


@pytest.mark.parametrize("data", [b"", bytes(4096), b"MZ" + bytes(100), b"_FVH" + bytes(100), bytes(41) + b"_FVH"],
                         ids=["empty", "zeros", "MZ", "no header before it", "not aligned"])
def test_other_files_are_left_to_others(data: bytes) -> None:
    assert vmm_boot_probe("/k", data, len(data)) is None


def test_two_banks(plan: Plan) -> None:
    context = plan()
    (device,) = context.device_plan("flash")
    assert device["resources"] == {"code": [0, 64 * MIB], "vars": [64 * MIB, MIB]}
    assert context.claims == [(0, 64 * MIB), (64 * MIB, MIB)]
    assert os.pread(context.fd(device["files"]["code"]), 4096, 0) == firmware()[:4096]
    assert vmm_fdt_nodes(cast(Any, context)) == [
        ("flash@0", {"compatible": "cfi-flash", "bank-width": 4, "reg": [0, 0, 0, 64 * MIB, 0, 64 * MIB, 0, MIB]})]


def test_no_firmware_no_node() -> None:
    assert vmm_fdt_nodes(cast(Any, Context(None))) == []


def test_variables_that_are_forgotten(plan: Plan) -> None:
    assert plan().variables() == b"\xff" * MIB


def test_variables_are_made_and_kept(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "vars.fd"
    context = plan(vars=path)
    assert context.variables() == b"\xff" * MIB == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.glob("*.new")] == []
    context.close()
    path.write_bytes(b"kept" + bytes(MIB - 4))
    assert plan(vars=path).variables()[:4] == b"kept"


def test_a_template(plan: Plan, tmp_path: Path) -> None:
    path, template = tmp_path / "vars.fd", tmp_path / "VARS.fd"
    template.write_bytes(b"\xaa" * 100 + bytes(3 * MIB))
    expected = b"\xaa" * 100 + bytes(3 * MIB) + b"\xff" * (MIB - 100)
    assert plan(template=template).variables() == expected
    context = plan(vars=path, template=template)
    assert context.variables() == expected
    context.close()
    path.write_bytes(b"kept" + bytes(MIB - 4))  # and it is for the first time only
    assert plan(vars=path, template=template, dry_run=True).variables()[:4] == b"kept"


def test_a_file_that_is_no_whole_bank_becomes_one(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "vars.fd"
    path.write_bytes(b"old" * (256 << 10))  # 768 KiB
    assert plan(vars=path).variables() == b"old" * (256 << 10) + b"\xff" * (256 << 10)


def test_two_vms_cannot_have_the_same_variables(plan: Plan, tmp_path: Path) -> None:
    plan(vars=tmp_path / "vars.fd")
    with pytest.raises(UserError, match="--firmware vars=: .*in use by another virtual machine"):
        plan(vars=tmp_path / "vars.fd")


def test_a_dry_run_makes_nothing(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "vars.fd"
    assert plan(vars=path, dry_run=True).variables() == b"\xff" * MIB
    assert not path.exists()


def test_errors_are_one_line(plan: Plan, code: Path, tmp_path: Path) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(UserError) as caught:
            plan(**options)
        text = str(caught.value)
        assert "\n" not in text
        return text

    assert refusal(arch="x86_64").startswith("--firmware: firmware in flash is for AArch64, and this machine is x86_64")
    assert "--firmware template=" in refusal(template=tmp_path / "none")
    assert "--firmware vars=" in refusal(vars=tmp_path / "none" / "vars.fd")
    assert "--firmware vars=" in refusal(vars=tmp_path)
    big = tmp_path / "big"
    with open(big, "wb") as file:
        file.truncate(64 * MIB + 1)
    assert "room for 1 to" in refusal(vars=big) and "room for 1 to" in refusal(template=big)
    code.write_bytes(firmware() + bytes(63 * MIB))
    assert "--firmware path=" in refusal()


def test_firmware_as_a_kernel(code: Path) -> None:
    claim = vmm_boot_probe(str(code), code.read_bytes()[:65536], code.stat().st_size)
    assert claim is not None
    with pytest.raises(UserError, match="--kernel: .* is firmware, no kernel; give it as --firmware"):
        claim.plan(cast(Any, Context(None)))
