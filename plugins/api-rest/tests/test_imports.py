# SPDX-License-Identifier: Apache-2.0
"""Whoever does not ask for the API does not pay for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW_MODULES = """
import os, sys
os.execv = lambda *_: sys.exit()  # what would become the runner
from vmmcore.front.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("\\n".join(sys.modules))
"""


def modules(*args: str, disabled: str = "") -> set[str]:
    env = {**os.environ, "VMM_DISABLE_PLUGINS": disabled}
    done = subprocess.run([sys.executable, "-P", "-c", SHOW_MODULES, *args], capture_output=True, text=True,
                          timeout=60, env=env, stdin=subprocess.DEVNULL)  # fmt: skip
    assert not done.stderr, done.stderr
    return set(done.stdout.split())


@pytest.mark.needs_kvm
@pytest.mark.parametrize("args", [["run", "--serial", "null"], ["plan", "--serial", "null"], ["run", "--help"]])
def test_a_vm_without_the_api_imports_nothing_of_it(forever: Path, args: list[str]) -> None:
    args = [*args[:1], "--kernel", str(forever), "--memory", "64M", *args[1:]]
    there = modules(*args, disabled="nothing")
    assert "vmmcore.front.cli.machine" in there
    assert there == modules(*args, disabled="api-rest")
    foreign = {"h11", "http", "http.client", "asyncio", "ssl", "vmmcore.front.cli.served", "vmmcore.front.unixsocket"}
    assert not there & foreign
    assert not [name for name in there if name.startswith("vmm_api_rest")]


def test_the_api_brings_no_web_framework(tmp_path: Path) -> None:
    """What serves it is small: h11, json and the front."""
    program = "import vmm_api_rest.main, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
    there = set(done.stdout.split())
    assert "h11" in there
    assert not there & {"asyncio", "ssl", "http.client", "click", "email", "urllib.request"}
