# SPDX-License-Identifier: Apache-2.0
"""`--gpio`: what it accepts and plans, and what the device tree says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vmmcore.errors import UserError, VmmError
from vmmcore.front.config import VmConfig
from vmmcore.front.discovery import Discovery
from vmmcore.front.planning import Layout, PlanContext

from vmm_pl061.plugin import GpioOptions, plan, vmm_device_types, vmm_fdt_nodes


@pytest.fixture
def context() -> PlanContext:
    document: dict[str, Any] = {"files": [], "devices": [], "load": []}
    unused: Any = SimpleNamespace(hooks=None)
    layout = Layout(ram=[(1 << 30, 1 << 20)], gsis=[12, 9], extra={"phandles": {"gic": 1, "its": 2, "clock": 3}})
    return PlanContext(VmConfig(kernel="/dev/null"), layout, document, unused, unused, [])


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    device: dict[str, Any] = {"type": "gpio", "resources": {}}
    if plan(context, GpioOptions.parse(text, "--gpio"), device) is False:
        return None
    context.plan["devices"].append(device)
    return device


@pytest.mark.parametrize("text", ["", "on", "enabled=on"])
def test_on(context: PlanContext, text: str) -> None:
    device = planned(context, text)
    assert device is not None
    assert device["resources"] == {"address": 0x0902_0000, "gsi": 9}
    with pytest.raises(VmmError, match="pl061"):
        context.mmio(0x0902_0000, 1, "other")


def test_off_claims_nothing(context: PlanContext) -> None:
    assert planned(context, "off") is None
    assert list(vmm_fdt_nodes(context)) == []
    assert planned(context, "on") is not None


@pytest.mark.parametrize("text", ["maybe", "on,off", "path=/x"])
def test_bad_option_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(UserError, match="--gpio") as caught:
        GpioOptions.parse(text, "--gpio")
    assert "\n" not in str(caught.value)


def test_device_tree(context: PlanContext) -> None:
    planned(context, "on")
    (name, lines), (keys_name, keys) = vmm_fdt_nodes(context)
    assert (name, keys_name) == ("pl061@9020000", "gpio-keys")
    assert lines == {
        "compatible": ["arm,pl061", "arm,primecell"],
        "reg": [0, 0x0902_0000, 0, 0x1000],
        "interrupts": [0, 9, 4],
        "clocks": 3,
        "clock-names": "apb_pclk",
        "gpio-controller": True,
        "#gpio-cells": 2,
        "phandle": 0x100,
    }
    assert keys == {
        "compatible": "gpio-keys",
        "poweroff": {"label": "GPIO Key Poweroff", "linux,code": 116, "gpios": [0x100, 3, 0]},
    }

def test_one_platform_device_type() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.many) == ("gpio", "platform", False)


@pytest.mark.parametrize(("machine", "ours"), [("aarch64", True), ("x86_64", False)])
def test_flag_is_there_on_aarch64_only(machine: str, ours: bool) -> None:
    entries = Discovery(machine=machine).group("vmmcore.flags").get("gpio", [])
    assert ("vmm_pl061.plugin" in [entry.module for entry in entries]) is ours
