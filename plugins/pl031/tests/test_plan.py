# SPDX-License-Identifier: Apache-2.0
"""`--rtc`: what it accepts and plans, and what the device tree says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vmm_testkit.planning import plan_context, plan_device
from vmmcore.errors import UserError, VmmError
from vmmcore.front.discovery import Discovery
from vmmcore.front.planning import PlanContext

from vmm_pl031.plugin import RtcOptions, vmm_device_types, vmm_fdt_nodes

(KIND,) = vmm_device_types()


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context(gsis=[12, 8], phandles={"gic": 1, "its": 2, "clock": 3}) as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    return plan_device(context, KIND, text)


@pytest.mark.parametrize("text", ["", "on", "enabled=on"])
def test_on(context: PlanContext, text: str) -> None:
    device = planned(context, text)
    assert device is not None
    assert device["resources"] == {"address": 0x0901_0000, "gsi": 8}
    with pytest.raises(VmmError, match="pl031"):
        context.mmio(0x0901_0000, 1, "other")


def test_off_claims_nothing(context: PlanContext) -> None:
    assert planned(context, "off") is None
    assert list(vmm_fdt_nodes(context)) == []
    assert planned(context, "on") is not None


@pytest.mark.parametrize("text", ["maybe", "on,off", "path=/x"])
def test_bad_option_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(UserError, match="--rtc") as caught:
        RtcOptions.parse(text, "--rtc")
    assert "\n" not in str(caught.value)


def test_device_tree(context: PlanContext) -> None:
    planned(context, "on")
    ((name, node),) = vmm_fdt_nodes(context)
    assert name == "pl031@9010000"
    assert node == {
        "compatible": ["arm,pl031", "arm,primecell"],
        "reg": [0, 0x0901_0000, 0, 0x1000],
        "interrupts": [0, 8, 4],
        "clocks": 3,
        "clock-names": "apb_pclk",
    }


def test_one_platform_device_type() -> None:
    assert (KIND.key, KIND.bus, KIND.many) == ("rtc", "platform", False)


@pytest.mark.parametrize(("machine", "ours"), [("aarch64", True), ("x86_64", False)])
def test_flag_is_there_on_aarch64_only(machine: str, ours: bool) -> None:
    entries = Discovery(machine=machine).group("vmmcore.flags").get("rtc", [])
    assert ("vmm_pl031.plugin" in [entry.module for entry in entries]) is ours
