# SPDX-License-Identifier: Apache-2.0
"""`--debugcon`: what it accepts, what it plans, and what it says when it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.planning import plan_context, plan_device
from vmmcore.errors import UserError, VmmError
from vmmcore.front.planning import PlanContext

from vmm_debugcon.plugin import DebugconOptions, vmm_device_types

(KIND,) = vmm_device_types()


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context(gsis=[4, 5, 6]) as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    return plan_device(context, KIND, text)


def test_default_ports(context: PlanContext) -> None:
    device = planned(context, "null")
    assert device is not None
    assert device["resources"] == {"console": 0xE9, "stamp": 0x80, "exit": 0}
    assert device["files"] == {} and context.plan["files"] == []


def test_ports_of_choice_are_claimed(context: PlanContext) -> None:
    device = planned(context, "null,iobase=0x402,stamp_port=0,exit_port=0xf4")
    assert device is not None
    assert device["resources"] == {"console": 0x402, "stamp": 0, "exit": 0xF4}
    context.ports(0xE9, 1, "other")
    context.ports(0x80, 1, "other")
    for port in (0x402, 0xF4, 0xF7):
        with pytest.raises(VmmError, match="debugcon"):
            context.ports(port, 1, "other")


def test_ports_may_not_overlap(context: PlanContext) -> None:
    with pytest.raises(VmmError, match="0xe9"):
        planned(context, "null,stamp_port=0xe9")


def test_tty_is_output_only(context: PlanContext) -> None:
    device = planned(context, "tty")
    assert device is not None
    assert device["files"] == {"out": 0} and context.plan["files"] == [{"stdio": 1}]


def test_file_and_pty(context: PlanContext, tmp_path: Path) -> None:
    device = planned(context, f"file={tmp_path}/log,iobase=0x402")
    assert device is not None and (tmp_path / "log").exists()
    device = planned(context, "pty,stamp_port=0")
    assert device is not None and os.isatty(context.fd(device["files"]["out"]))


def test_off_claims_nothing(context: PlanContext) -> None:
    assert planned(context, "off") is None
    assert planned(context, "null") is not None, "the ports are still free"


@pytest.mark.parametrize(("text", "words"), [
    ("", "--debugcon: .*tty"), ("nul", "--debugcon mode=: .*null"), ("tty,file=/tmp/x", "--debugcon file=: .*tty"),
    ("null,iobase=0x10000", "--debugcon iobase=: .*65535"), ("null,exit_port=65533", "--debugcon exit_port=: .*65532"),
    ("null,iobse=1", "--debugcon.*iobse.*iobase"), ("null,iobase=port", "--debugcon iobase=: .*number"),
])
def test_bad_option_is_one_line_that_names_it(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        DebugconOptions.parse(text, "--debugcon")
    assert "\n" not in str(caught.value)
