# SPDX-License-Identifier: Apache-2.0
"""`--serial`: what it accepts, what it plans, and what it says when it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.planning import plan_context, plan_device
from vmmcore.errors import UserError, VmmError
from vmmcore.front.chardev import SocketStreamOptions
from vmmcore.front.planning import PlanContext

from vmm_serial.plugin import vmm_cmdline_words, vmm_device_types

(KIND,) = vmm_device_types()


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context(gsis=[4, 5, 6]) as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any] | None:
    return plan_device(context, KIND, text)


def test_tty_takes_standard_input_and_output(context: PlanContext) -> None:
    device = planned(context, "tty")
    assert device is not None
    assert device["resources"] == {"port": 0x3F8, "gsi": 4}
    assert context.plan["files"] == [{"stdio": 0}, {"stdio": 1}]
    assert device["files"] == {"in": 0, "out": 1}


def test_file_is_emptied_and_gets_output_only(context: PlanContext, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old")
    device = planned(context, f"file={log}")
    assert device is not None
    assert list(device["files"]) == ["out"]
    assert log.read_text() == ""
    os.write(context.fd(device["files"]["out"]), b"new")
    assert log.read_text() == "new"


def test_pty_serves_both_ways(context: PlanContext) -> None:
    device = planned(context, "pty")
    assert device is not None
    assert device["files"]["in"] == device["files"]["out"]
    assert os.isatty(context.fd(device["files"]["in"]))


def test_null_is_a_port_without_files(context: PlanContext) -> None:
    device = planned(context, "null")
    assert device is not None and device["files"] == {} and context.plan["files"] == []


def test_socket_listens_at_once(context: PlanContext, tmp_path: Path) -> None:
    import socket

    device = planned(context, f"socket={tmp_path}/s")
    assert device is not None and list(device["files"]) == ["listen"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
    assert device["options"]["sockets"][0][0] == f"{tmp_path}/s"


def test_off_claims_nothing(context: PlanContext) -> None:
    assert planned(context, "off") is None
    assert planned(context, "null") is not None, "the port is still free"


def test_console_word_only_with_a_port(context: PlanContext) -> None:
    assert list(vmm_cmdline_words(context)) == []
    planned(context, "null")
    assert list(vmm_cmdline_words(context)) == ["console=ttyS0"]


def test_port_is_claimed(context: PlanContext) -> None:
    planned(context, "null")
    with pytest.raises(VmmError, match="serial"):
        context.ports(0x3FF, 1, "other")


@pytest.mark.parametrize(("text", "words"), [
    ("", "--serial: .*tty"), ("ttty", "--serial mode=: .*tty"), ("tty,file=/tmp/x", "--serial file=: .*tty"),
    ("socket=", "--serial socket=: "), ("fiel=/x", "--serial.*fiel.*file"),
    ("file=", "--serial file=: "),
])
def test_bad_option_is_one_line_that_names_it(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        SocketStreamOptions.parse(text, "--serial")
    assert "\n" not in str(caught.value)


def test_unwritable_file_names_the_option(context: PlanContext, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--serial file=.*missing"):
        planned(context, f"file={tmp_path}/missing/log")


def test_one_platform_device_type() -> None:
    assert (KIND.key, KIND.bus, KIND.many) == ("serial", "platform", False)
