# SPDX-License-Identifier: Apache-2.0
"""`--console`: what it accepts, what it plans, what it says when it cannot, and that nothing is left then."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console_front import Front
from vmm_testkit.guest import default_vmm
from vmmcore.errors import UserError
from vmmcore.front.config import DeviceConfig
from vmmcore.front.devices import plan_device


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.close()


def hosts(device: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(port["name"], port["host"]) for port in device["options"]["ports"]]


def test_each_port_has_its_files(front: Front, tmp_path: Path) -> None:
    device = front.add("console", f"pty,ports=[agent@socket={tmp_path}/sock,log@file={tmp_path}/log,x@pty,y@null]")
    assert hosts(device) == [(None, "pty"), ("agent", "socket"), ("log", "file"), ("x", "pty"), ("y", "null")]
    assert sorted(device["files"]) == ["0.in", "0.out", "1.listen", "2.out", "3.in", "3.out"]
    assert len(front.told) == 2 and front.told[1].startswith("vmm: --console ports=x@ pty: /dev/pts/")


def test_ports_of_a_config_file(front: Front) -> None:
    assert front.context is not None
    plan_device(front.context, front.plugins, DeviceConfig("console", {"mode": "null", "ports": ["a@null", "b@null"]}))
    assert hosts(front.context.plan["devices"][0]) == [(None, "null"), ("a", "null"), ("b", "null")]


def test_off_is_no_device(front: Front) -> None:
    assert front.add("console", "off") == {} and front.fds == [] and front.cmdline == ""


def test_socket_goes_with_the_plan(front: Front, tmp_path: Path) -> None:
    front.add("console", f"socket={tmp_path}/sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/sock")
    front.close()
    assert os.listdir(tmp_path) == []


def test_dead_socket_is_replaced_a_live_one_is_not(front: Front, tmp_path: Path) -> None:
    path = f"{tmp_path}/sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    front.add("console", f"socket={path}")
    other = Front()
    with pytest.raises(UserError, match="--console socket=: .*another program listens there"):
        other.add("console", f"socket={path}")
    other.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="exists, and is no socket"):
        Front().add("console", f"socket={tmp_path}/file")
    assert (tmp_path / "file").read_text() == "kept"


def test_dry_run_creates_nothing(tmp_path: Path) -> None:
    front = Front(dry_run=True)
    front.add("console", f"socket={tmp_path}/sock,ports=[a@file={tmp_path}/log,b@pty]")
    assert os.listdir(tmp_path) == [] and front.told == []
    front.close()


@pytest.mark.parametrize(("flags", "words"), [
    ([("console", "tty")], "console=hvc0"),
    ([("console", "null")], ""),
    ([("serial", "tty"), ("console", "pty")], "console=hvc0 console=ttyS0"),
    ([("serial", "null"), ("console", "tty")], "console=ttyS0 console=hvc0"),
    ([("console", "tty"), ("serial", "null")], "console=ttyS0 console=hvc0"),
    ([("serial", "pty"), ("console", "pty")], "console=ttyS0 console=hvc0"),
    ([("serial", "tty"), ("console", "null")], "console=ttyS0"),
])
def test_kernel_is_told_of_the_livelier_console_last(front: Front, flags: list[tuple[str, str]], words: str) -> None:
    for flag, text in flags:
        front.add(flag, text)
    assert front.cmdline == words


@pytest.mark.parametrize(("text", "words"), [
    ("", "--console: it is not said where the bytes go; use tty, pty, null, file=PATH or socket=PATH"),
    ("ttty", "--console mode=: 'ttty' is not one of"),
    ("tty,file=/tmp/x", "--console file=: cannot be combined with tty"),
    ("file=/tmp/x,socket=/tmp/y", "--console socket=: cannot be combined with file="),
    ("sockt=/x", "--console: unknown key 'sockt'; did you mean socket"),
    ("socket=", "--console socket=: the path is empty"),
    ("socket=/missing/x", "--console socket=: /missing/x: No such file.*; create the folder first"),
    ("socket=/tmp/" + "x" * 104, "--console socket=: .*longer than 107 bytes"),
    ("file=/missing/x", "--console file=: "),
    ("off,ports=[a@pty]", "--console ports=: there is no console"),
    ("null,ports=[a]", "--console ports=: 'a' does not say where"),
    ("null,ports=[@pty]", "--console ports=: '' cannot be the name"),
    ("null,ports=[a/b@pty]", "--console ports=: 'a/b' cannot be the name"),
    ("null,ports=[" + "a" * 64 + "@pty]", "--console ports=: .*up to 63"),
    ("null,ports=[a@pty,a@null]", "--console ports=: the name 'a' is given twice"),
    ("null,ports=[a@off]", "--console ports=a@: a port cannot be off"),
    ("null,ports=[a@ptty]", "--console ports=a@ mode=: 'ptty' is not one of"),
    ("null,ports=[a@socket=/missing/x]", "--console ports=a@ socket=: /missing/x"),
    ("null,ports=[" + ",".join(f"p{n}@null" for n in range(32)) + "]", "--console ports=: 32 are too many"),
    ("tty,ports=[a@tty]", "--console ports=a@ tty: another port has this terminal already"),
    ("null,legacy_size=5", "--console legacy_size=: "),
])
def test_bad_option_is_one_line_that_names_it(front: Front, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        front.add("console", text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flags", [["--serial", "tty", "--console", "tty"], ["--console", "tty", "--serial", "tty"]])
def test_terminal_has_one_user(flags: list[str]) -> None:
    done = vmm_run(*flags)
    assert done.returncode == 2
    assert re.fullmatch(r"vmm: error: (--serial|--console) tty: (--serial|--console) has this terminal already; use "
                        r"pty, .* for one of them\n", done.stderr), done.stderr


@pytest.mark.parametrize("more", [["--rng", "src=/missing"], ["--console", "null"], []])
def test_failed_start_leaves_nothing(tmp_path: Path, more: list[str]) -> None:
    done = vmm_run("--serial", "null", "--console", f"socket={tmp_path}/a,ports=[x@socket={tmp_path}/b]", *more)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == []


def vmm_run(*args: str) -> subprocess.CompletedProcess[str]:
    """No kernel: the file is one that no boot method takes."""
    return subprocess.run([*default_vmm(), "--kernel", __file__, *args], check=False, capture_output=True, text=True,
                          timeout=60)
