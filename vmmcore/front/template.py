# SPDX-License-Identifier: Apache-2.0
"""``vmm plugins new``: a complete plugin package around a small PCI device, ready to be changed.

In the texts ``@NAME@`` is the plugin's name, ``@MODULE@`` its import package, ``@CLASS@`` its device class
and ``@KEY@`` its device type.
"""

from __future__ import annotations

import keyword
import os

from ..errors import UserError

FILES: dict[str, str] = {}

FILES["pyproject.toml"] = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "vmm-@NAME@"
version = "0.1.0"
description = "The device @NAME@ for vmm"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["vmmcore>=0.1,<1"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.vmmcore]
@NAME@ = "@MODULE@.plugin"

# a flag of its own: vmm run --@KEY@ value=5
[project.entry-points."vmmcore.flags"]
@KEY@ = "@MODULE@.plugin"

[tool.setuptools]
package-dir = { "" = "src" }
packages = ["@MODULE@"]
package-data = { "@MODULE@" = ["py.typed"] }

[tool.pytest.ini_options]
testpaths = ["tests"]

[tool.ruff]
line-length = 110

[tool.mypy]
strict = true
mypy_path = "src"
"""

FILES["README.md"] = """\
# vmm-@NAME@

A PCI device for vmm with one 4 KiB BAR:

| offset | access | meaning |
|---|---|---|
| 0 | read | an identifier, 0x564d4d31 |
| 4 | read/write | a register; its first value is the option `value=` |
| 8 | read | how often the register was written |

    pip install -e '.[test]'
    pytest
    vmm plugins info @NAME@
    vmm run --kernel vmlinuz --@KEY@ value=5

`src/@MODULE@/plugin.py` is the front's half: it says what the device is called and which options it takes.
`src/@MODULE@/device.py` is the half beside the guest. `tests/test_guest.py` runs a guest of a few lines of C
against the device; it needs `pip install vmm-testkit` (and the plugins of a machine) and gcc.
"""

FILES["tox.ini"] = """\
[tox]
env_list = py311, lint, types

[testenv]
extras = test
commands = pytest {posargs}

[testenv:lint]
skip_install = true
deps = ruff
commands = ruff check .

[testenv:types]
deps = mypy
commands = mypy src
"""

FILES["src/@MODULE@/__init__.py"] = '''\
"""The device @NAME@ for vmm: `plugin` is the front's half, `device` the half beside the guest."""
'''

FILES["src/@MODULE@/py.typed"] = ""

FILES["src/@MODULE@/plugin.py"] = '''\
"""The front's half: what the device is called and which options it takes. Keep it light to import."""

from __future__ import annotations

from vmmcore.front.options import Option, Options
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)  # the plugin API this was written for


class @CLASS@Options(Options):
    """``--@KEY@ value=5``, or ``--@KEY@ 5``."""

    positional = "value"
    value = Option(int, 0, "first value of the register", min=0, max=0xFFFFFFFF)


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [DeviceType("@KEY@", "@MODULE@.device:@CLASS@", options=@CLASS@Options, doc="the device @NAME@")]
'''

FILES["src/@MODULE@/device.py"] = '''\
"""The half beside the guest: registers in BAR 0. See README.md for the table."""

from __future__ import annotations

from typing import Any

from vmmcore.device import PciDevice

MAGIC = 0x564D4D31


class @CLASS@(PciDevice):
    """An identifier, a register, and a count of writes to it. Handlers run while a vCPU waits: be quick."""

    vendor_id = 0x1AF4  # choose your own
    device_id = 0x10F0
    class_code = 0xFF0000  # fits no class

    def realize(self) -> None:
        self.value = int(self.options.get("value", 0))
        self.writes = 0
        self.add_bar(0, 4096, self.read, self.write)

    def reset(self) -> None:
        self.value = int(self.options.get("value", 0))

    def read(self, offset: int, size: int) -> int:
        return {0: MAGIC, 4: self.value, 8: self.writes & 0xFFFFFFFF}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 4:
            self.value = value & 0xFFFFFFFF  # the guest chooses size and value: trust neither
            self.writes += 1

    def save(self) -> dict[str, Any]:
        return {"value": self.value, "writes": self.writes}

    def restore(self, state: dict[str, Any]) -> None:
        self.value, self.writes = state["value"], state["writes"]

    def counters(self) -> dict[str, int]:
        return {"writes": self.writes}
'''

FILES["tests/test_plugin.py"] = '''\
"""The front's half: what `--@KEY@` accepts."""

from __future__ import annotations

import pytest
from vmmcore.errors import UserError

from @MODULE@.plugin import @CLASS@Options, vmm_device_types


@pytest.mark.parametrize(("text", "value"), [("", 0), ("5", 5), ("value=0x10", 16)])
def test_options(text: str, value: int) -> None:
    assert @CLASS@Options.parse(text, "--@KEY@").value == value


@pytest.mark.parametrize("text", ["value=-1", "value=4294967296", "value=x", "velue=1"])
def test_a_bad_option_is_named_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--@KEY@") as caught:
        @CLASS@Options.parse(text, "--@KEY@")
    assert "\\n" not in str(caught.value)


def test_device_type() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.factory) == ("@KEY@", "pci", "@MODULE@.device:@CLASS@")
'''

FILES["tests/test_device.py"] = '''\
"""The device alone, without a guest."""

from __future__ import annotations

from typing import Any

import pytest

from @MODULE@.device import MAGIC, @CLASS@


class Bare@CLASS@(@CLASS@):
    """The device with its BAR kept here rather than given to a machine."""

    def add_bar(self, index: int, size: int, read: Any = None, write: Any = None, **how: Any) -> None:
        self.bar = (index, size, read, write)


@pytest.fixture
def device() -> Bare@CLASS@:
    machine: Any = None
    made = Bare@CLASS@(machine, "@KEY@0", {"value": 5})
    made.realize()
    return made


def test_registers(device: Bare@CLASS@) -> None:
    index, size, read, write = device.bar
    assert (index, size) == (0, 4096)
    assert (read(0, 4), read(4, 4), read(8, 4)) == (MAGIC, 5, 0)
    write(4, 4, 7)
    write(0, 4, 9)
    assert (read(0, 4), read(4, 4), read(8, 4)) == (MAGIC, 7, 1)
    assert device.counters() == {"writes": 1}


def test_whatever_the_guest_does(device: Bare@CLASS@) -> None:
    for offset in range(0, 4096, 3):
        for size in (1, 2, 4, 8):
            device.write(offset, size, (1 << 8 * size) - 1)
            assert 0 <= device.read(offset, size) < 1 << 32


def test_reset_and_restore(device: Bare@CLASS@) -> None:
    device.write(4, 4, 7)
    state = device.save()
    device.reset()
    assert device.read(4, 4) == 5
    device.restore(state)
    assert device.read(4, 4) == 7
'''

FILES["tests/test_guest.py"] = '''\
"""The device in a whole machine: a guest of a few lines of C."""

from __future__ import annotations

import os

import pytest

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")

GUEST = """
#include "guest.h"
int main(struct hvm_start_info *si) {
  (void)si;
  int bdf = pci_find(0x1af4, 0x10f0);
  CHECK(bdf >= 0, "no device, %d", bdf);
  pci_cfg_write16(bdf, 4, pci_cfg_read16(bdf, 4) | 2); /* memory decoding on */
  u64 bar = pci_bar_address(bdf, 0);
  map(bar & ~0x1fffffull, 0x200000, 1);
  CHECK(mmio_read32(bar) == 0x564d4d31, "magic %x", mmio_read32(bar));
  CHECK(mmio_read32(bar + 4) == 5, "first value %x", mmio_read32(bar + 4));
  mmio_write32(bar + 4, 6);
  CHECK(mmio_read32(bar + 4) == 6, "value %x", mmio_read32(bar + 4));
  CHECK(mmio_read32(bar + 8) == 1, "writes %x", mmio_read32(bar + 8));
  return 0;
}
"""


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm (see `vmm check`)")
def test_registers_from_a_guest() -> None:
    baremetal.BareMetal(GUEST).run(["--@KEY@", "value=5"]).check()
'''


def write_plugin(name: str, folder: str | None = None) -> str:
    """Write the package ``vmm-NAME``; its folder's path. Raises UserError, OSError."""
    words = name.split("-")
    if (
        not all(word.isascii() and word.isalnum() and word == word.lower() for word in words)
        or name[:1].isdigit()
    ):
        raise UserError(
            "NAME", f"'{name}' cannot be a plugin's name", "use small letters, digits and single '-'"
        )
    module = "vmm_" + name.replace("-", "_")
    key = name.replace("-", "_")
    if keyword.iskeyword(module) or name.startswith("vmm-"):
        raise UserError("NAME", f"'{name}': the package will be called vmm-{name}", "leave vmm- out")
    path = os.path.abspath(folder or f"vmm-{name}")
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError("--dir", f"{path} exists and is not empty", "name another folder")
    values = {
        "@NAME@": name,
        "@MODULE@": module,
        "@CLASS@": "".join(word.capitalize() for word in words),
        "@KEY@": key,
    }
    for file, text in FILES.items():
        for mark, value in values.items():
            file, text = file.replace(mark, value), text.replace(mark, value)
        target = os.path.join(path, file)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as out:
            out.write(text)
    return path
