# SPDX-License-Identifier: Apache-2.0
"""`--serial` on AArch64: what it plans, and what the device tree says. Options and files are the core's, as the 16550's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.planning import plan_context, plan_device
from vmmcore.errors import UserError, VmmError
from vmmcore.front.discovery import Discovery
from vmmcore.front.planning import PlanContext

from vmm_pl011.plugin import vmm_cmdline_words, vmm_device_types, vmm_fdt_nodes

(KIND,) = vmm_device_types()


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context(gsis=[12, 11], phandles={"gic": 1, "its": 2, "clock": 3}) as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    return plan_device(context, KIND, text)


def test_tty_takes_standard_input_and_output(context: PlanContext) -> None:
    device = planned(context, "tty")
    assert device is not None
    assert device["resources"] == {"address": 0x0900_0000, "gsi": 11, "fdt_stdout": "/pl011@9000000"}
    assert context.plan["files"] == [{"stdio": 0}, {"stdio": 1}]
    assert device["files"] == {"in": 0, "out": 1}
    assert device["options"] == {"host": "tty", "sockets": []}


def test_pty_serves_both_ways(context: PlanContext) -> None:
    device = planned(context, "pty")
    assert device is not None
    assert device["files"]["in"] == device["files"]["out"]
    assert os.isatty(context.fd(device["files"]["in"]))


def test_unwritable_file_names_the_option(context: PlanContext, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--serial file=.*missing"):
        planned(context, f"file={tmp_path}/missing/log")


def test_off_claims_nothing(context: PlanContext) -> None:
    assert planned(context, "off") is None
    assert list(vmm_fdt_nodes(context)) == list(vmm_cmdline_words(context)) == []
    assert planned(context, "null") is not None, "the place is still free"


def test_place_is_claimed(context: PlanContext) -> None:
    planned(context, "null")
    with pytest.raises(VmmError, match="pl011"):
        context.mmio(0x0900_0FFF, 1, "other")


def test_kernel_is_told(context: PlanContext) -> None:
    planned(context, "null")
    assert list(vmm_cmdline_words(context)) == ["console=ttyAMA0"]
    ((name, node),) = vmm_fdt_nodes(context)
    assert name == "pl011@9000000"
    assert node == {
        "compatible": ["arm,pl011", "arm,primecell"],
        "reg": [0, 0x0900_0000, 0, 0x1000],
        "interrupts": [0, 11, 4],
        "clocks": [3, 3],
        "clock-names": ["uartclk", "apb_pclk"],
    }


def test_one_platform_device_type() -> None:
    assert (KIND.key, KIND.bus, KIND.many) == ("serial", "platform", False)


@pytest.mark.parametrize(("machine", "ours"), [("aarch64", True), ("x86_64", False)])
def test_flag_is_ours_on_aarch64_only(machine: str, ours: bool) -> None:
    entries = Discovery(machine=machine).group("vmmcore.flags").get("serial", [])
    assert ("vmm_pl011.plugin" in [entry.module for entry in entries]) is ours
