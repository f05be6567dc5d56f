# SPDX-License-Identifier: Apache-2.0
"""What docs/writing-a-plugin.md and docs/prototyping-pci.md walk through works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vmmcore

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
)
pytest.importorskip("vmm_testkit.virtio", reason="needs the testkit: pip install vmm-testkit")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def run_tests(folder: Path, *files: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *files]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ten_minutes_in_python(tmp_path: Path) -> None:
    device, driver, guest = blocks("writing-a-plugin.md", "python")[:3]
    (tmp_path / "echo.py").write_text(device)
    (tmp_path / "test_echo.py").write_text(driver)
    (tmp_path / "test_guest.py").write_text(guest)
    assert "3 passed" in run_tests(tmp_path, "test_echo.py", "test_guest.py")
    lines = [line for line in device.splitlines() if line.strip()]
    assert len(lines) < 40


def test_ten_minutes_in_c(tmp_path: Path) -> None:
    from cffi import FFI

    _, driver, _, device = blocks("writing-a-plugin.md", "python")[:4]
    (source,) = blocks("writing-a-plugin.md", "c")
    package = tmp_path / "echo_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "device.py").write_text(device)
    ffi = FFI()
    ffi.cdef("void *echo_new(const void *api); int echo_start(void *echo, void *queue); void echo_free(void *echo);")
    ffi.set_source("echo_package._native", source, include_dirs=[vmmcore.get_include()])
    ffi.compile(tmpdir=str(tmp_path))
    (tmp_path / "test_echo.py").write_text(driver.replace("from echo import", "from echo_package.device import"))
    assert "2 passed" in run_tests(tmp_path, "test_echo.py")


def test_the_prototype() -> None:
    from vmm_testkit.virtio_machine import Bus, PciFunction, empty_plan, spec_of_class

    from vmmcore.machine.assembly import Machine

    found: dict[str, Any] = {}
    exec(blocks("prototyping-pci.md", "python")[0], found)
    plan = empty_plan([(0, 1 << 20)])
    plan["devices"].append(spec_of_class(found["Fetcher"], "fetcher0", {}, {}))
    machine = Machine(plan, [])
    try:
        machine.build()
        machine.start()
        machine.memory.write(0x1000, b"fetch me")
        bus = Bus(machine.vm)
        pci = PciFunction(bus, 1)
        pci.write(4, 2, 6)
        base = pci.bar(0)
        assert bus.read(base, 4) == 0x010000ED
        bus.write(base + 0x10, 8, 0x1000)
        bus.write(base + 0x0C, 4, 8)
        assert bus.read(base + 0x08, 4) == 0  # not enabled
        bus.write(base + 0x04, 4, 1)
        bus.write(base + 0x0C, 4, 8)
        assert machine.devices["fetcher0"].fetched == b"fetch me"  # type: ignore[attr-defined]
        assert (bus.read(base + 0x08, 4), pci.read(6, 2) & 8) == (1, 8)
        bus.write(base + 0x08, 4, 1)
        assert (bus.read(base + 0x08, 4), pci.read(6, 2) & 8) == (0, 0)
    finally:
        machine.close()
