# SPDX-License-Identifier: Apache-2.0
"""Pretend plugins for tests of the front: installed distributions in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

MACHINE = os.uname().machine

ARCH = """
    from vmmcore.hooks import hookimpl
    from vmmcore.front.planning import Layout
    API = (1, 0)

    class Arch:
        name = "fake"
        machine_module = "fake_arch.machine"

        def layout(self, config):
            return Layout(ram=[(0, config.memory.size)], gsis=[5, 6], pci_gsis=[8, 9], segments=[{"id": 0}])

        def finish(self, context, entry):
            context.plan["entry"] = entry
            parts = context.hooks.vmm_acpi_nodes(context=context)
            context.plan["platform"] = {"nodes": [node for part in parts for node in part]}

    @hookimpl
    def vmm_arch(machine):
        return Arch()
"""

BOOT = """
    from vmmcore.hooks import BootClaim, hookimpl
    API = (1, 0)

    @hookimpl
    def vmm_boot_probe(path, head, size):
        if head.startswith(b"FAKE"):
            return BootClaim(100, "fake kernel", plan)

    def plan(context):
        index = context.open_file(context.config.kernel, "--kernel")
        context.load_file(context.layout.load_min, index, 0, 4)
        context.load_bytes(0x1000, context.cmdline.encode())
        return {"protocol": "fake", "rip": context.layout.load_min}
"""

FOO = """
    from vmmcore.hooks import DeviceType, hookimpl
    from vmmcore.front.options import Option, Options, Size
    API = (1, 0)

    class FooOptions(Options):
        positional = "mode"
        mode = Option(str, "a", "the mode", choices=("a", "b", "off"))
        size = Option(Size, 4096, "bytes", min=512)

    def plan(context, options, device):
        if options.mode == "off":
            return False
        device["resources"]["gsi"] = context.gsi()

    @hookimpl
    def vmm_device_types():
        return [DeviceType("foo", "fake_foo.device:Foo", options=FooOptions, plan=plan, doc="A foo.")]

    @hookimpl
    def vmm_cmdline_words(context):
        return [f"foo={len(context.device_plan('foo'))}"]
"""


class Site:
    """A folder on PYTHONPATH that holds pretend distributions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)

    def dist(self, name: str, entry_points: str, modules: dict[str, str], version: str = "1.0") -> None:
        for module, text in modules.items():
            path = self.root / (module.replace(".", "/") + ".py")
            for parent in list(path.parents)[: len(module.split(".")) - 1]:
                parent.mkdir(parents=True, exist_ok=True)
                (parent / "__init__.py").touch()
            path.write_text(textwrap.dedent(text))
        folder = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: A {name}.\n"
        )
        (folder / "entry_points.txt").write_text(textwrap.dedent(entry_points))

    def machine(self) -> None:
        """A pretend architecture, boot method and device type."""
        self.dist(
            "vmm-fake-arch",
            f"[vmmcore]\nfake-arch = fake_arch.plugin\n[vmmcore.arch]\n{MACHINE} = fake_arch.plugin\n",
            {"fake_arch.plugin": ARCH, "fake_arch.machine": ""},
        )
        self.dist(
            "vmm-fake-boot",
            "[vmmcore]\nfake-boot = fake_boot.plugin\n[vmmcore.boot]\nfake = fake_boot.plugin\n",
            {"fake_boot.plugin": BOOT},
        )
        self.foo()

    def foo(self, dist: str = "vmm-foo", module: str = "fake_foo", text: str = FOO) -> None:
        self.dist(
            dist,
            f"[vmmcore]\nfoo = {module}.plugin\n[vmmcore.flags]\nfoo = {module}.plugin\n",
            {f"{module}.plugin": text, f"{module}.device": ""},
        )

    def vmm(self, *args: str, only: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
        """Run the real `vmm` script. `only`: with plugins of this folder alone."""
        script = Path(sys.executable).with_name("vmm")
        env = {**os.environ, "PYTHONPATH": str(self.root), **dict(kwargs.pop("env", {}))}  # type: ignore[call-overload]
        if only:
            env.setdefault("VMM_DISABLE_PLUGINS", "arch-*,boot-*,serial,pl0*,debugcon,pvpanic,acpi")
        return subprocess.run(
            [str(script), *args],
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            stdin=subprocess.DEVNULL,
            **kwargs,
        )  # type: ignore[call-overload,no-any-return]
