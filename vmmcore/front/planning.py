# SPDX-License-Identifier: Apache-2.0
"""Compiling a configuration into a plan (:mod:`vmmcore.plan`) and the open files it needs.

Order: checks, the architecture's layout, devices in the order they were asked for, PCI
slots, the boot method, the command line, the architecture's tables and registers, and a
last look for plugins. An error anywhere closes every file that was opened.
"""

from __future__ import annotations

import os
import sys

from .. import plan as planfile
from ..errors import PluginError, UserError, VmmError
from .config import DeviceConfig, VmConfig
from .context import Layout, PlanContext
from .devices import PLUGIN, assign_slots, plan_device, plugin_argument
from .plugins import Plugins, cause

__all__ = ["Layout", "PlanContext", "PlannedVm", "compile_plan", "plan_more", "plugins_for"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..hooks import Arch, BootClaim

#: bytes of a kernel that boot methods are shown
HEAD_SIZE = 64 << 10


class PlannedVm:
    """A plan and its open files. A context manager: whatever was not handed to a runner is closed."""

    def __init__(
        self, plan: dict[str, Any], fds: list[int], plugins: Plugins, context: PlanContext | None = None
    ) -> None:
        self.plan, self.fds, self.plugins, self.context = plan, fds, plugins, context

    @property
    def observed(self) -> bool:
        """Whether a plugin wants the events of this VM, so that a front must stay."""
        return self.plugins.observes

    def close(self) -> None:
        planfile.close_all(self.fds)

    def release(self) -> None:
        """The VM has ended: what was made on the host for it is removed."""
        if self.context is not None:
            self.context.release()

    def __enter__(self) -> PlannedVm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def compile_plan(
    config: VmConfig,
    plugins: Plugins | None = None,
    *,
    dry_run: bool = False,
    tell: Callable[[str], None] | None = None,
) -> PlannedVm:
    """The plan for `config`, with its files open. Raises VmmError; nothing stays open then.

    plugins  what may be used (default: as `config` says)
    dry_run  create nothing on the host: for ``vmm plan``
    tell     gets lines for the user, such as a pty's path (default: stderr)
    """
    fds: list[int] = []
    try:
        return _compile(config, plugins or plugins_for(config), fds, dry_run, tell)
    except BaseException:
        planfile.close_all(fds)
        raise


def plugins_for(config: VmConfig) -> Plugins:
    """The plugins that `config` allows; none is loaded yet."""
    return Plugins(
        (plugin_argument(text)[0] for text in config.plugins), default_plugins=config.default_plugins
    )


def _compile(
    config: VmConfig, plugins: Plugins, fds: list[int], dry_run: bool, tell: Callable[[str], None] | None
) -> PlannedVm:
    config.check()
    _check_cpus(config)
    placed = [device.options for device in config.devices if device.type == PLUGIN]
    devices = [DeviceConfig(PLUGIN, text) for text in config.plugins if text not in placed] + config.devices
    for text in config.plugins:
        plugins.load_named(plugin_argument(text)[0])
    machine = os.uname().machine
    arch = plugins.arch(machine)
    own = [*getattr(arch, "devices", ()), *(getattr(arch, "firmware_devices", ()) if config.firmware else ())]
    wanted_types = {device.type for device in devices}
    devices += [
        DeviceConfig(key)
        for key in own
        if key not in wanted_types and plugins.offers(key)
    ]
    layout: Layout = _guard(arch, lambda: arch.layout(config))
    plan = _empty_plan(config, arch, layout)
    if growing := _virtio_mem(config):
        plugins.load_named("virtio-mem")
        devices += growing
    context = PlanContext(config, layout, plan, arch, plugins, fds, dry_run=dry_run, tell=tell)
    if config.memory_zones:
        from .zones import plan_zones

        files = {
            zone.id: context.open_memory(zone.file, zone.size, zone.shared)
            for zone in config.memory_zones
            if zone.file is not None
        }
        plan["memory"]["zones"] = plan_zones(config, layout.ram, files)
    for wanted in devices:
        plan_device(context, plugins, wanted)
    assign_slots(context)
    entry = _plan_boot(context, plugins)
    plan["cmdline"] = context.cmdline
    _guard(arch, lambda: arch.finish(context, entry))
    plugins.hooks.vmm_plan_ready(context=context)
    plan["modules"] = _modules(plan, plugins)
    return PlannedVm(plan, fds, plugins, context)


def _empty_plan(config: VmConfig, arch: Arch, layout: Layout) -> dict[str, Any]:
    cpus, memory = config.cpus, config.memory
    return {
        "version": planfile.VERSION,
        "id": config.id,
        "modules": {},
        "user_path": [],
        "arch": {"name": arch.name, "module": arch.machine_module},
        "cpus": {
            "boot": cpus.boot,
            "max": cpus.max,
            "topology": cpus.topology,
            "affinity": dict(cpus.affinity),
            "features": list(cpus.features),
            "max_phys_bits": cpus.max_phys_bits,
        },
        "memory": {
            "regions": [[gpa, size] for gpa, size in layout.ram],
            "shared": memory.shared,
            "hugepages": memory.hugepages,
            "hugepage_size": memory.hugepage_size or 0,
            "prefault": memory.prefault,
            "mergeable": memory.mergeable,
            "thp": memory.thp,
            "hotplug": _acpi_hotplug(config, layout),
            "zones": [],
        },
        "load": [],
        "entry": None,
        "platform": {},
        "pci": {"segments": layout.segments, "gsis": list(layout.pci_gsis)},
        "devices": [],
        "files": [],
        "control": -1,
        "start": True,
        "parent_death": False,
        "timing": config.timing,
        "t0": 0,
        "t_exec": 0,
        "cmdline": "",
    }


def _acpi_hotplug(config: VmConfig, layout: Layout) -> dict[str, Any] | None:
    """What ``--memory hotplug_size=`` keeps free (with zones, nothing)."""
    if "" not in layout.hotplug:
        return None
    base, size = layout.hotplug[""]
    method, plugged = config.memory.hotplug_method, config.memory.hotplugged_size or 0
    return {"method": method, "base": base, "size": size, "plugged": plugged if method == "acpi" else 0}


def _virtio_mem(config: VmConfig) -> list[DeviceConfig]:
    """A device for each zone that may grow by virtio-mem."""
    if config.memory.hotplug_method != "virtio-mem":
        return []
    return [
        DeviceConfig("virtio-mem", {"zone": zone}, f"virtio-mem-{zone}" if zone else "virtio-mem", origin="--memory")
        for zone, *_ in config.hotplug_room
    ]


#: VMM_MAX_VCPUS of native.h
MAX_VCPUS = 255


def _check_cpus(config: VmConfig) -> None:
    """Compare with what KVM allows, when it can be asked."""
    from .check import kvm_max_vcpus

    host = kvm_max_vcpus() or MAX_VCPUS
    limit, whose = (host, "this host's KVM allows") if host < MAX_VCPUS else (MAX_VCPUS, "vmm can run")
    if config.cpus.max > limit:
        key = "boot" if config.cpus.boot > limit else "max"
        raise UserError(f"--cpus {key}=", f"{config.cpus.max} is more than {whose}", f"the most is {limit}")


def _guard(arch: Arch, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"architecture {arch.name} failed: {cause(error)}") from error


class MoreDevice:
    """A device planned for a machine that runs already; a context manager that closes its files.

    device   as in ``plan["devices"]``; None: its plugin has nothing to build
    files    entries as in ``plan["files"]``, which ``device["files"]`` counts; `fds` are parallel
    modules  further modules that the runner may import
    """

    def __init__(
        self, planned: PlannedVm, device: dict[str, Any] | None, files: list[Any], fds: list[int]
    ) -> None:
        self._planned, self.device, self.files, self.fds = planned, device, files, fds
        self.modules = _modules({**planned.plan, "devices": [device]}, planned.plugins) if device else {}
        self._kept = False

    def keep(self) -> None:
        """The runner has it: it belongs to the plan from now on."""
        self._kept = True

    def __enter__(self) -> MoreDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        planfile.close_all(self.fds)
        if self.device is not None and not self._kept:
            self._planned.plan["devices"].remove(self.device)


def plan_more(planned: PlannedVm, wanted: DeviceConfig) -> MoreDevice:
    """Plan one more device for a machine that runs. Raises VmmError; nothing stays open then."""
    context = planned.context
    if context is None:
        raise VmmError("a machine from a saved plan takes no further devices")
    plan = planned.plan
    files_before, fds_before, devices_before = plan["files"], context.fds, list(plan["devices"])
    plan["files"], context.fds = [], []
    try:
        plan_device(context, planned.plugins, wanted)
        assign_slots(context)
        added = plan["devices"][len(devices_before) :]
        return MoreDevice(planned, added[0] if added else None, plan["files"], context.fds)
    except BaseException:
        planfile.close_all(context.fds)
        plan["devices"][:] = devices_before
        raise
    finally:
        plan["files"], context.fds = files_before, fds_before


# --- booting ---------------------------------------------------------------------


def _plan_boot(context: PlanContext, plugins: Plugins) -> dict[str, Any]:
    config = context.config
    option, path = ("--firmware", config.firmware.path) if config.firmware else ("--kernel", config.kernel)
    assert path is not None
    index = context.open_file(path, option)
    fd = context.fd(index)
    head = os.pread(fd, HEAD_SIZE, 0)
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, 0, os.SEEK_SET)
    names = plugins.load_boot()
    try:
        claims: list[BootClaim] = list(
            reversed(plugins.hooks.vmm_boot_probe(path=path, head=head, size=size))
        )
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"a boot method failed on {path}: {cause(error)}") from error
    if not claims:
        raise UserError(
            option,
            f"{path}: no boot method can boot this file" if size else f"{path}: the file is empty",
            f"asked: {', '.join(names)}",
        )
    best = max(claims, key=lambda claim: claim.score)
    try:
        return best.plan(context)
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"boot method {best.name} failed on {path}: {cause(error)}") from error


# --- modules -----------------------------------------------------------------------


def _modules(plan: dict[str, Any], plugins: Plugins) -> dict[str, str]:
    """Top-level modules that the runner may import, and the directory that holds each."""
    names = ["vmmcore", "_cffi_backend", plan["arch"]["module"].partition(".")[0]]
    names += [device["module"].partition(".")[0] for device in plan["devices"] if "module" in device]
    used = {*names}
    for plugin in plugins.loaded:
        if plugin.module.__name__.partition(".")[0] in used:
            names += getattr(plugin.module, "MODULES", ())
    return {name: find_module(name) for name in dict.fromkeys(names)}


def find_module(name: str) -> str:
    """The directory that holds the top-level module `name`, which is not imported. Raises PluginError."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, None) if find is not None else None
        if spec is not None and spec.origin is not None and os.path.isabs(spec.origin):
            folder: str = os.path.dirname(spec.origin)
            return os.path.dirname(folder) if spec.submodule_search_locations is not None else folder
    raise PluginError(f"the module {name} is not installed, or not as files")
