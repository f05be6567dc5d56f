# SPDX-License-Identifier: Apache-2.0
"""`--gpio`: what it accepts and plans, and what the device tree says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vmm_testkit.planning import plan_context, plan_device
from vmmcore.errors import UserError, VmmError
from vmmcore.front.discovery import Discovery
from vmmcore.front.planning import PlanContext

from vmm_pl061.plugin import GpioOptions, vmm_device_types, vmm_fdt_nodes

(KIND,) = vmm_device_types()


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context(gsis=[12, 9], phandles={"gic": 1, "its": 2, "clock": 3}) as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    return plan_device(context, KIND, text)


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
    assert (KIND.key, KIND.bus, KIND.many) == ("gpio", "platform", False)


@pytest.mark.parametrize(("machine", "ours"), [("aarch64", True), ("x86_64", False)])
def test_flag_is_there_on_aarch64_only(machine: str, ours: bool) -> None:
    entries = Discovery(machine=machine).group("vmmcore.flags").get("gpio", [])
    assert ("vmm_pl061.plugin" in [entry.module for entry in entries]) is ours
