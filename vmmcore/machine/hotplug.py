# SPDX-License-Identifier: Apache-2.0
"""CPUs and memory that come and go while the guest runs. Imported when they do.

The registers that the guest's firmware code reads are native/hotplug.c's. What is asked for becomes part of the plan,
so that the machine after a reboot has it.
"""

from __future__ import annotations

from vmmcore.errors import VmmError

from . import memory as mem
from .assembly import GED_CPU, GED_MEMORY
from .native import check, ffi, lib, named_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .assembly import Machine

#: what memory comes in: Linux's memory blocks on x86-64, and on AArch64 with 4 KiB pages
BLOCK = 128 << 20


# --- CPUs ---


def check_cpus(machine: Machine, wanted: int) -> None:
    """Raise VmmError unless the VM can have `wanted` vCPUs."""
    most = machine.plan["cpus"]["max"]
    if not 1 <= wanted <= most:
        raise VmmError(f"cpus: {wanted} is not 1 to {most}, the most that this VM was made for (--cpus max=)")
    least = (machine.plan["platform"].get("cpu_hotplug") or {}).get("fixed", 1)
    if wanted < least:
        raise VmmError(f"cpus: the first {least}, those of --cpus boot=, cannot be taken out")
    if machine.cpu_hotplug == ffi.NULL and wanted != machine.plan["cpus"]["boot"]:
        raise VmmError(machine.platform.fixed_cpus)


def make_cpus(machine: Machine, wanted: int) -> list[int]:
    """Make the vCPUs that are missing; which they are. The guest does not know them yet. Raises VmmError.

    `wanted` has passed check_cpus().
    """
    if machine.cpu_hotplug == ffi.NULL:
        return []
    take_ejected(machine)
    missing = [index for index in range(wanted) if index not in machine.vcpus]
    _make(machine, missing)
    return missing


def unmake_cpus(machine: Machine, made: list[int]) -> None:
    """The guest does not get to know them."""
    for index in made:
        _stop(machine, index)


def resize_cpus(machine: Machine, wanted: int, made: list[int]) -> None:
    """Plug CPUs in, or ask the guest to let go of those with the highest numbers; `made`: what make_cpus() returned.

    What the guest ejects later is told by the event ``cpus-resized``.
    """
    plan, control = machine.plan["cpus"], machine.cpu_hotplug
    if control == ffi.NULL:
        return
    missing = list(made)
    back = [index for index in range(wanted) if lib.vmm_hotplug_keep(control, index)]
    missing += make_cpus(machine, wanted)  # what the guest has ejected before it could be kept
    for index in missing:
        lib.vmm_hotplug_insert(control, index, 0, 0, True)
    for index in machine.vcpus:
        if index >= wanted and not lib.vmm_hotplug_leaving(control, index):
            lib.vmm_hotplug_remove(control, index)
    plan["boot"] = wanted
    machine.platform.notify(GED_CPU)
    if missing or back:
        _tell_cpus(machine)


def _make(machine: Machine, indices: list[int]) -> None:
    """vCPUs and their threads, all or none."""
    made = []
    try:
        for index in indices:
            made.append(index)
            machine.new_vcpu(index)
            check(machine.vm, lib.vmm_vcpu_start(machine.vm, index))
    except VmmError:
        for index in made:
            _stop(machine, index)
        raise


def _stop(machine: Machine, index: int) -> None:
    lib.vmm_vcpu_stop(machine.vm, index)
    if index in machine.vcpus:
        machine.vcpus.remove(index)
        machine.platform.put_away_vcpu(index, lib.vmm_vcpu_fd(machine.vm, index))


def take_ejected(machine: Machine) -> None:
    """End the threads of the CPUs that the guest has let go of."""
    ejected = []
    while (index := lib.vmm_hotplug_gone(machine.cpu_hotplug)) >= 0:
        _stop(machine, index)
        ejected.append(index)
    if ejected:
        _tell_cpus(machine)


def _tell_cpus(machine: Machine) -> None:
    machine.tell("cpus-resized", cpus=len(machine.vcpus), pending=len(pending_cpus(machine)))


def pending_cpus(machine: Machine) -> list[int]:
    """vCPUs that the guest was asked to let go of and has still."""
    return [index for index in machine.vcpus if lib.vmm_hotplug_leaving(machine.cpu_hotplug, index)]


# --- memory ---


def check_memory(machine: Machine, wanted: int) -> None:
    """Raise VmmError unless the VM can have `wanted` bytes of RAM."""
    plan = machine.plan["memory"]
    hotplug = plan.get("hotplug")
    if plan.get("zones"):
        raise VmmError("memory: this VM's memory is in zones; resize one of them (resize-zone)")
    if not hotplug:
        if wanted != _boot_ram(plan):
            raise VmmError("memory: this VM was made without room for more (--memory hotplug_size=)")
        return
    if hotplug["method"] != "acpi":
        device = _zone_device(machine, "")
        device.check_size(wanted - _boot_ram(plan))
        return
    boot = _boot_ram(plan)
    _check_range("memory", wanted, boot, hotplug["size"])
    unit = max(BLOCK, plan.get("hugepage_size") or 0)
    if (wanted - boot) % unit:
        raise VmmError(f"memory: {wanted - boot} bytes beyond the {boot} of the start are no multiple of "
                       f"{unit >> 20} MiB")
    slots = machine.plan["platform"]["memory_hotplug"]["slots"]
    if wanted - boot > _present(machine) and machine.memory_slots == slots:
        raise VmmError("memory: all slots of hot-plugged memory are in use; a reboot makes them one")


class Filling:
    """RAM that a thread populates before the guest gets it, so that the main thread has time for other things.

    `done` is called on the main thread when it is, or when it cannot be: :meth:`check` says which. Raises VmmError.
    """

    #: bytes at a time: what an end of the VM waits for
    PIECE = 64 << 20

    def __init__(self, machine: Machine, gpa: int, size: int, how: dict[str, Any], done: Callable[[Filling], None]):
        import _thread
        import posix

        self.machine, self.gpa, self.size, self._done = machine, gpa, size, done
        self._error, self._cancelled = 0, False
        try:
            self._fd = posix.eventfd(0)
        except OSError as failed:
            raise named_failure("eventfd", failed.errno or 0) from None
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        error, flags = ffi.new("int *"), mem.flags_of(how)
        self._slot = lib.vmm_mem_prepare(machine.vm, gpa, size, flags, how.get("hugepage_size") or 0, -1, -1, error)
        try:
            check(machine.vm, error[0])
            machine.loop.add(self._fd, 1, self._on_end)
            _thread.start_new_thread(self._fill, ())
        except BaseException as failed:
            machine.loop.remove(self._fd)
            posix.close(self._fd)
            lib.vmm_mem_drop(self._slot)
            if isinstance(failed, RuntimeError):  # no thread
                raise named_failure("clone", 11) from None
            raise
        machine.filling = self

    def _fill(self) -> None:
        import posix

        at = 0
        while at < self.size and not self._error and not self._cancelled:
            self._error = lib.vmm_mem_populate(self._slot, at, min(self.PIECE, self.size - at))
            at += self.PIECE
        posix.eventfd_write(self._fd, 1)
        self._ended.release()

    def _on_end(self, fd: int, events: int) -> None:
        import posix

        self._ended.acquire()
        self.machine.loop.remove(self._fd)
        posix.close(self._fd)
        self.machine.filling = None
        try:
            self._done(self)
        finally:
            lib.vmm_mem_drop(self._slot)

    def cancel(self) -> None:
        """The machine ends."""
        self._cancelled = True
        self._on_end(self._fd, 0)

    def check(self) -> None:
        """Raise VmmError unless all of it is there: the host has not the memory, or the machine ends."""
        if self._cancelled:
            raise VmmError("memory: the VM was rebooted or ended before all of it was there")
        if self._error:
            raise named_failure("madvise(MADV_POPULATE_WRITE)", -self._error)

    def place(self) -> None:
        """Give it to the guest. Raises VmmError."""
        self.machine.memory.place(self._slot, self.gpa, self.size)
        self._slot = ffi.NULL


def fill_memory(machine: Machine, wanted: int, done: Callable[[Filling], None]) -> bool:
    """Whether RAM of `wanted` bytes needs memory that must be populated first: `done` is called when it is.

    `wanted` has passed check_memory(). Raises VmmError.
    """
    plan = machine.plan["memory"]
    hotplug = plan.get("hotplug")
    if not hotplug or hotplug["method"] != "acpi" or not plan.get("prefault"):
        return False
    present, extra = _present(machine), wanted - _boot_ram(plan)
    if extra <= present:
        return False
    Filling(machine, hotplug["base"] + present, extra - present, plan, done)
    return True


def resize_memory(machine: Machine, wanted: int, filled: Filling | None = None) -> None:
    """Have the RAM be `wanted` bytes. Raises VmmError; nothing has changed.

    By ACPI it grows at once, or by what fill_memory() has made, and shrinks at the next reboot; by virtio-mem both, as
    far as the guest agrees.
    """
    check_memory(machine, wanted)
    plan = machine.plan["memory"]
    hotplug = plan.get("hotplug")
    if not hotplug:
        return
    extra = wanted - _boot_ram(plan)
    if hotplug["method"] != "acpi":
        _zone_device(machine, "").resize(extra)
        _remember(machine, "", extra)
        return
    present = _present(machine)
    if extra > present:
        gpa = hotplug["base"] + present
        if filled is not None:
            filled.place()
        else:
            machine.memory.add(gpa, extra - present, mem.flags_of(plan), plan.get("hugepage_size") or 0)
        for device in machine.devices.values():
            device.memory_added()
        lib.vmm_hotplug_insert(machine.memory_hotplug, machine.memory_slots, gpa, extra - present, True)
        machine.memory_slots += 1
        hotplug["plugged"] = extra
        machine.platform.notify(GED_MEMORY)
    hotplug["plugged"] = extra
    machine.tell("memory-resized", memory=memory_size(machine), memory_actual=actual_size(machine))


def check_zone(machine: Machine, zone: str, wanted: int) -> None:
    """Raise VmmError unless there is a zone of this name that can have `wanted` bytes."""
    extra = wanted - _zone_ram(machine, zone)
    _zone_device(machine, zone).check_size(extra)


def resize_zone(machine: Machine, zone: str, wanted: int) -> None:
    """Have a memory zone with a virtio-mem device be `wanted` bytes. Raises VmmError; nothing has changed."""
    extra = wanted - _zone_ram(machine, zone)
    _zone_device(machine, zone).resize(extra)
    _remember(machine, zone, extra)


def memory_size(machine: Machine) -> int:
    """Bytes of RAM that the guest has been given: at the start, and plugged in since."""
    return _boot_ram(machine.plan["memory"]) + _present(machine) + _deltas(machine, 1)


def actual_size(machine: Machine) -> int:
    """The same without what the guest has given back (balloon)."""
    return memory_size(machine) + _deltas(machine, -1)


def _deltas(machine: Machine, sign: int) -> int:
    """What devices add to the RAM (sign 1) or take from it (-1)."""
    found = [getattr(device, "memory_delta", 0) for device in machine.devices.values()]
    return sum(delta for delta in found if delta * sign > 0)


def _boot_ram(plan: dict[str, Any]) -> int:
    return sum(size for _, size in plan["regions"])


def _zone_ram(machine: Machine, zone: str) -> int:
    for found in machine.plan["memory"].get("zones") or ():
        if found["id"] == zone:
            return sum(size for _, size in found["regions"])
    raise VmmError(f"no memory zone '{zone}'")


def _zone_device(machine: Machine, zone: str) -> Any:
    """The virtio-mem device of a zone ("": of --memory)."""
    for device in machine.devices.values():
        if getattr(device, "memory_zone", None) == zone:
            return device
    raise VmmError(f"memory zone '{zone}' has no room for more (hotplug_size=)" if zone else
                   "memory: the virtio-mem device has been removed")


def _remember(machine: Machine, zone: str, size: int) -> None:
    """The device of the next machine asks for as much."""
    for spec in machine.plan["devices"]:
        if spec.get("options", {}).get("zone") == zone and "region_size" in spec["options"]:
            spec["options"]["requested_size"] = size


def _check_range(what: str, wanted: int, boot: int, room: int) -> None:
    if not boot <= wanted <= boot + room:
        raise VmmError(f"{what}: {wanted} bytes is not {boot} to {boot + room}, what this VM was made for "
                       "(size= and hotplug_size=)")


def _present(machine: Machine) -> int:
    """Bytes that are plugged in by ACPI now."""
    hotplug = machine.plan["memory"].get("hotplug")
    if not hotplug or hotplug["method"] != "acpi":
        return 0
    end = hotplug["base"] + hotplug["size"]
    return sum(size for gpa, size in machine.memory.regions if hotplug["base"] <= gpa < end)
