# SPDX-License-Identifier: Apache-2.0
"""Building a machine from its plan, in an order that can be read in one place: :meth:`Machine.build`.

A reboot of the guest closes the machine and builds another from the same plan, so
that nothing of the old one (a masked interrupt, a half-written register) survives.
"""

from __future__ import annotations

import sys

from vmmcore.errors import VmmError

from . import memory as mem
from .bus import BusSpace
from .native import check, ffi, lib, open_vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from vmmcore.device import Device

    from .hotplug import Filling
    from .kvmstats import KvmStats
    from .pci import Segment

PIO, MMIO = 0, 1
GED_CPU, GED_MEMORY, GED_PCI, GED_POWER = 1, 2, 4, 8  # VMM_GED_* of vmmcore.h
EXITS = ("pio", "mmio", "interrupted", "other")


class Platform:
    """Base of an architecture's machine half: ``class Platform`` in the module plan["arch"]["module"]."""

    #: KVM_IRQCHIP_* that GSIs are pins of, and how many (x86: the IOAPIC's 24)
    irqchip, irq_pins = 2, 24
    #: the number of GSI 0 in KVM_IRQ_LINE (KVM API §4.25)
    irq_line_base = 0
    #: whether MSIs carry the id of the PCI function that sends them (KVM_MSI_VALID_DEVID)
    msi_device_ids = False
    #: where I/O ports are in memory, [address, ports]; None: the CPU has instructions for them
    ports: tuple[int, int] | None = None
    #: whether KVM makes no vCPU later than the others: those that may be plugged in are made with them
    all_vcpus_first = False
    #: why the number of CPUs cannot change in a machine without a controller for them
    fixed_cpus = "cpus: this VM was made with one CPU and without room for more (--cpus max=)"
    #: what else to say when KVM gives up on a vCPU
    error_hint = ""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @staticmethod
    def vm_type(plan: dict[str, Any]) -> int:
        """KVM's machine type (KVM API §4.2), asked before there is a VM."""
        return 0

    def create(self) -> None:
        """Interrupt controllers and what else must be there before the first vCPU."""

    def vcpu_id(self, index: int) -> int:
        """The id to create vCPU `index` with (x86: its APIC ID)."""
        return index

    def init_vcpu(self, index: int, fd: int) -> None:
        """What the CPU is: feature registers, first state."""

    def revive_vcpu(self, index: int, fd: int) -> None:
        """A vCPU that was unplugged is plugged in again: it waits to be started, as a new one. Raises VmmError."""
        raise VmmError("this architecture's CPUs stay as they are while the VM runs")

    def put_away_vcpu(self, index: int, fd: int) -> None:
        """KVM has this vCPU, whose thread does not run, and the guest has not: it must not be able to start it."""

    def map_ram(self, gpa: int, size: int) -> bool:
        """Show RAM that the plan's tables do not have in the guest's memory map; False: there is no way to."""
        return False

    def set_entry(self, entry: dict[str, Any]) -> None:
        """First registers of vCPU 0. The others wait until the guest starts them."""

    def realize(self) -> None:
        """Ports and addresses of the platform itself."""

    def stop_clock(self) -> None:
        """No vCPU runs any more: the guest's clocks stand still until :meth:`start_clock`."""

    def start_clock(self) -> None:
        """vCPUs are about to run. Without a :meth:`stop_clock` before it does nothing."""

    def describe_vcpu(self, fd: int) -> list[str]:
        """Registers of a vCPU that KVM gave up on, in lines for people."""
        return []

    def notify(self, bits: int) -> None:
        """Raise events in ACPI's generic event device (GED_…). Raises VmmError where there is none."""
        if "ged" not in self.machine.plan["platform"]:
            raise VmmError("this machine has no ACPI, so its guest cannot be told")
        check(self.machine.vm, lib.vmm_ged_notify(self.machine.vm, bits))

    def power_button(self) -> None:
        """Press it. Raises VmmError where there is none."""
        if "ged" not in self.machine.plan["platform"]:
            raise VmmError("this machine has no power button")
        self.notify(GED_POWER)

    def save(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class IrqLine:
    """An interrupt line, by GSI. ``fd`` is its eventfd: writing it is a pulse."""

    __slots__ = ("fd", "gsi", "vm")

    def __init__(self, vm: Any, gsi: int) -> None:
        self.vm, self.gsi = vm, gsi
        self.fd = check(vm, lib.vmm_irqfd_open(vm, gsi))

    def pulse(self) -> None:
        """An edge."""
        import posix

        posix.write(self.fd, (1).to_bytes(8, "little"))

    def close(self) -> None:
        lib.vmm_irqfd_close(self.vm, self.gsi, self.fd)
        self.fd = -1


class MainLoop:
    """``machine.loop``: file descriptors watched by the main thread, handlers in Python."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm
        self.handlers: dict[int, Callable[[int, int], None]] = {}
        self._events = ffi.new("uint32_t *")

    def add(self, fd: int, events: int, handler: Callable[[int, int], None]) -> None:
        """Call handler(fd, events) when epoll says so (EPOLLIN is 1, EPOLLOUT 4)."""
        check(self.vm, lib.vmm_poll_add(self.vm, fd, events))
        self.handlers[fd] = handler

    def remove(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            lib.vmm_poll_del(self.vm, fd)

    def wait(self) -> None:
        """Wait for the next thing to happen and handle it, unless it is an event of the machine."""
        fd = lib.vmm_poll_wait(self.vm, -1, self._events)
        handler = self.handlers.get(fd) if fd > 0 else None
        if handler is not None:
            handler(fd, self._events[0])


class Machine:
    """One virtual machine, as its devices see it.

    plan, vm (the core's pointer), api_address and vm_address (integers for a plugin's C half),
    memory, pio, mmio, loop, devices (by id), platform.
    """

    def __init__(self, plan: dict[str, Any], fds: list[int]) -> None:
        self.plan, self._fds = plan, fds
        arch = plan.get("arch")  # a machine without vCPUs, for tests, has none
        self._platform_class: type[Platform] = import_module(arch["module"]).Platform if arch else Platform
        self.vm = open_vm(plan.get("kvm_device", "/dev/kvm"), self._platform_class.vm_type(plan))
        self.api_address = int(ffi.cast("uintptr_t", lib.vmm_api_get()))
        self.vm_address = int(ffi.cast("uintptr_t", self.vm))
        self.memory = mem.Memory(self.vm)
        self.pio, self.mmio = BusSpace(self.vm, PIO), BusSpace(self.vm, MMIO)
        self.loop = MainLoop(self.vm)
        self.devices: dict[str, Device] = {}
        self.segments: dict[int, Segment] = {}
        self.platform = Platform(self)
        self.state = "created"
        #: ids of devices that the guest was asked to let go of
        self.removing: set[str] = set()
        #: called when a controller of hot plug has something to say (VMM_EVENT_HOTPLUG)
        self.on_hotplug: list[Callable[[], None]] = []
        #: tells the front of an event: tell(name, key=value, …)
        self.tell: Callable[..., None] = lambda event, **data: None
        #: numbers of the vCPUs that are plugged in
        self.vcpus: list[int] = []
        self._made: set[int] = set()  # all that KVM has, unplugged ones too
        #: register blocks of hot plug (native/hotplug.c), or NULL
        self.cpu_hotplug: Any = ffi.NULL
        self.memory_hotplug: Any = ffi.NULL
        #: slots of the second that are in use
        self.memory_slots = 0
        #: memory that is being populated before the guest gets it
        self.filling: Filling | None = None
        self._controllers: list[Any] = []
        self._last_token = 0
        self._loops_taken = 0
        self._lines: list[IrqLine] = []
        self._bridge: Any = None
        self._kvm_stats: KvmStats | None = None
        self._event = ffi.new("struct vmm_event *")

    # --- building ---

    def build(self, mark: Callable[[str], None] = lambda phase: None) -> None:
        """Everything up to the first instruction. Raises VmmError; the caller closes the machine then."""
        plan = self.plan
        for gpa, size, how in mem.parts(plan["memory"]):
            backing = self._fds[how["file"]] if how.get("file") is not None else -1
            self.memory.add(gpa, size, mem.flags_of(how), how.get("hugepage_size") or 0, backing,
                            -1 if how.get("host_numa_node") is None else how["host_numa_node"])
        platform = self.platform = self._platform_class(self)
        platform.create()
        lib.vmm_irq_model(self.vm, platform.irq_line_base, platform.msi_device_ids)
        check(self.vm, lib.vmm_irq_chip(self.vm, platform.irqchip, platform.irq_pins))
        if platform.ports:
            check(self.vm, lib.vmm_bus_ports(self.vm, *platform.ports))
        self._build_vcpus(plan["cpus"])
        self.platform.realize()
        if ged := plan["platform"].get("ged"):
            check(self.vm, lib.vmm_ged_new(self.vm, ged["address"], ged["gsi"]))
        self._build_pci(plan["pci"]["segments"])
        for device in plan["devices"]:
            self.add_device(device, self._fds)
        mark("kvm")
        for part in plan["load"]:
            if "data" in part:
                self.memory.write(part["gpa"], part["data"])
            else:
                self.memory.load(part["gpa"], self._fds[part["file"]], part["offset"], part["size"])
        if plan.get("entry"):
            self.platform.set_entry(plan["entry"])
        for gpa, size in mem.plugged(plan["memory"]):
            if not self.platform.map_ram(gpa, size):
                lib.vmm_hotplug_insert(self.memory_hotplug, self.memory_slots, gpa, size, False)
                self.memory_slots += 1
        mark("load")

    def _build_vcpus(self, cpus: dict[str, Any]) -> None:
        for index in range(cpus["boot"]):
            self.new_vcpu(index)
        platform = self.plan.get("platform") or {}
        if place := platform.get("cpu_hotplug"):
            self.cpu_hotplug = self._controller(0, place["address"], cpus["max"])
            for index in self.vcpus:
                lib.vmm_hotplug_insert(self.cpu_hotplug, index, 0, 0, False)
            if self.platform.all_vcpus_first:
                for index in range(cpus["boot"], cpus["max"]):
                    self._make_vcpu(index)
                    self.platform.put_away_vcpu(index, lib.vmm_vcpu_fd(self.vm, index))
        if place := platform.get("memory_hotplug"):
            self.memory_hotplug = self._controller(1, place["address"], place["slots"])

    def _controller(self, kind: int, address: int, units: int) -> Any:
        """Registers of native/hotplug.c, and somebody who hears what the guest ejects."""
        err = ffi.new("int *")
        controller = lib.vmm_hotplug_new(self.vm, kind, address, units, err)
        check(self.vm, err[0])
        self._controllers.append(controller)
        if not kind:
            self.on_hotplug.append(self._look_at_cpus)
        return controller

    def _look_at_cpus(self) -> None:
        from .hotplug import take_ejected

        take_ejected(self)

    def new_vcpu(self, index: int) -> None:
        """Make vCPU `index`, or have one that was unplugged be as new; its thread is not started. Raises VmmError."""
        if index in self._made:
            self.platform.revive_vcpu(index, lib.vmm_vcpu_fd(self.vm, index))
        else:
            self._make_vcpu(index)
        self.vcpus.append(index)

    def _make_vcpu(self, index: int) -> None:
        fd = lib.vmm_vcpu_fd(self.vm, index)
        if fd < 0:  # else one whose making failed half-way: KVM keeps it
            fd = check(self.vm, lib.vmm_vcpu_new(self.vm, index, self.platform.vcpu_id(index)))
        self.platform.init_vcpu(index, fd)
        affinity = (self.plan["cpus"].get("affinity") or {}).get(index)
        if affinity:
            check(self.vm, lib.vmm_vcpu_affinity(self.vm, index, affinity, len(affinity)))
        self._made.add(index)

    def _build_pci(self, segments: list[dict[str, Any]]) -> None:
        if not segments:
            return
        from . import pci

        for segment in segments:
            self.segments[segment["id"]] = pci.Segment(self.vm, segment)
        self._bridge = pci.add_host_bridge(self.vm)
        if hotplug := self.plan["platform"].get("pci_hotplug"):
            check(self.vm, lib.vmm_pci_hotplug_new(self.vm, hotplug["address"]))

    def add_device(self, spec: dict[str, Any], fds: list[int]) -> Device:
        """Make the device of a plan's entry and put it in place. Raises VmmError."""
        if spec["id"] in self.devices:
            raise VmmError(f"there is a device '{spec['id']}' already")
        device = self.make_device(device_class(spec), spec, fds)
        files = [(fd, identity(fd)) for fd in device.files.values()]
        try:
            device._setup()
        except BaseException:
            import posix

            lib.vmm_counters_forget(self.vm, device.id.encode())
            for fd, before in files:
                if identity(fd) == before:  # not closed, or given to somebody who closed it, before it failed
                    posix.close(fd)
            raise
        self.put_device(device)
        return device

    def make_device(self, cls: type[Device], spec: dict[str, Any], fds: list[int]) -> Device:
        """The object for a plan's entry; nothing of it is in place yet."""
        import posix

        resources = dict(spec.get("resources") or {})
        if spec.get("bus") == "pci":
            resources.update(segment=spec.get("segment", 0), slot=spec["slot"])
        files = {name: posix.dup(fds[index]) for name, index in (spec.get("files") or {}).items()}
        device = cls(self, spec["id"], dict(spec.get("options") or {}), resources, files)
        self._last_token += 1
        device.token = self._last_token
        return device

    def put_device(self, device: Device) -> None:
        """From now on it is the VM's device of its id; it has been set up."""
        self.devices[device.id] = device

    def remove_device(self, device_id: str) -> None:
        """Take a device away at once. Raises VmmError for an unknown id."""
        device = self.devices.pop(device_id, None)
        if device is None:
            raise VmmError(f"no device '{device_id}'")
        self.removing.discard(device_id)
        self._end(device)
        lib.vmm_counters_forget(self.vm, device_id.encode())

    def _end(self, device: Device) -> None:
        """It is removed, whatever its own code makes of that."""
        try:
            device._enter("removed")
        except Exception as error:
            from .bus import report

            report(f"{device.id}: remove", error)

    def device_event(self, token: int) -> None:
        """VMM_EVENT_DEVICE: the C half of a device has something for its Python half. Token 0: any of them may."""
        for device in list(self.devices.values()):
            if token in (0, device.token):
                device.event(device.token)

    def hotplug_event(self) -> None:
        """VMM_EVENT_HOTPLUG: the guest has used a controller of hot plug as it was asked to."""
        for look in self.on_hotplug:
            look()

    # --- life ---

    def start(self, paused: bool = False) -> None:
        """Let the vCPUs run, or with `paused` wait for :meth:`resume`."""
        if not paused:
            self._all("activated")
        self.state = "created" if paused else "running"
        check(self.vm, lib.vmm_vcpus_start(self.vm, len(self.vcpus), paused))

    def pause(self) -> None:
        """Returns once no vCPU runs and every device is quiet. Raises VmmError unless running."""
        self._expect("running")
        lib.vmm_vcpus_pause(self.vm)
        try:
            self.platform.stop_clock()
        except VmmError:
            lib.vmm_vcpus_resume(self.vm)
            raise
        self._all("paused")
        self.state = "paused"

    def resume(self) -> None:
        """Raises VmmError unless paused (or created)."""
        self._expect("paused", "created")
        self._all("activated")
        self.platform.start_clock()
        if lib.vmm_vcpus_resume(self.vm):
            raise VmmError("the guest has ended")
        self.state = "running"

    def _expect(self, *states: str) -> None:
        if self.state not in states:
            raise VmmError(f"the VM is {self.state}, not {' or '.join(states)}")

    def _all(self, state: str) -> None:
        for device in self.devices.values():
            device._enter(state)

    def close(self) -> None:
        """vCPUs, devices in reverse order, platform, KVM: nothing is left of the machine."""
        if self.vm == ffi.NULL:
            return
        if self.filling is not None:
            self.filling.cancel()
        lib.vmm_vcpus_stop(self.vm)
        for device in reversed(self.devices.values()):
            if device.state != "removed":
                self._end(device)
        self.devices.clear()
        for line in self._lines:
            line.close()
        for controller in self._controllers:
            lib.vmm_hotplug_free(controller)
        self.platform.close()
        if self._bridge is not None:
            lib.vmm_pci_free(self._bridge)
        lib.vmm_vm_free(self.vm)
        self.vm, self.state = ffi.NULL, "closed"

    # --- what devices use ---

    def fd(self, index: int) -> int:
        """The open fd of plan["files"][index]; not the caller's to close."""
        return self._fds[index]

    def irq(self, gsi: int) -> IrqLine:
        """The interrupt line `gsi`; closed with the machine. Raises KvmError."""
        line = IrqLine(self.vm, gsi)
        self._lines.append(line)
        return line

    def take_loops(self, count: int) -> tuple[int, int]:
        """Loops for `count` queues: (number of the first, how many there are).

        As many as vCPUs leave CPUs of the host free, at least one: a loop more would only take turns with a vCPU, and
        find less to do each time.
        """
        import posix

        loops = max(1, min(len(posix.sched_getaffinity(0)) - self.plan["cpus"]["boot"], 16))
        first = self._loops_taken % loops
        self._loops_taken += count
        return first, loops

    def nmi(self) -> None:
        """A non-maskable interrupt on every vCPU. Raises VmmError where the architecture has none."""
        if lib.vmm_vcpus_nmi(self.vm):
            raise VmmError("nmi: this machine's CPUs have no non-maskable interrupt that a host could raise")

    def post_event(self, kind: int, arg: int = 0) -> None:
        """Tell the control plane (VMM_EVENT_* of vmmcore.h). Any thread."""
        lib.vmm_post_event(self.vm, kind, arg)

    # --- what the runner uses ---

    def next_event(self) -> tuple[int, int, int] | None:
        """(kind, arg, CLOCK_MONOTONIC ns) of the oldest event not yet taken."""
        event = self._event
        return (event.kind, event.arg, event.time_ns) if lib.vmm_event_next(self.vm, event) else None

    def error_text(self) -> str:
        """What KVM said when it gave up on a vCPU."""
        return str(ffi.string(lib.vmm_error_text(self.vm)).decode(errors="replace"))

    def describe_vcpu(self, index: int) -> list[str]:
        """Registers of a vCPU that does not run."""
        fd = lib.vmm_vcpu_fd(self.vm, index)
        return self.platform.describe_vcpu(fd) if fd >= 0 else []

    def first_run(self) -> tuple[int, int]:
        """When vCPU 0 first entered the guest and first left it (CLOCK_MONOTONIC ns, 0: not yet)."""
        return lib.vmm_first_run(self.vm), lib.vmm_first_exit(self.vm)

    def counters(self) -> dict[str, dict[str, int]]:
        """Per device and per vCPU: numbers that only grow."""
        found = {id: device._counters() for id, device in self.devices.items()}
        if self._kvm_stats is None:
            from .kvmstats import KvmStats

            self._kvm_stats = KvmStats()
        for index in sorted(self.vcpus):
            exits = {name: lib.vmm_vcpu_exits(self.vm, index, kind) for kind, name in enumerate(EXITS)}
            found[f"vcpu{index}"] = {**exits, "cpu_ns": lib.vmm_vcpu_cpu_ns(self.vm, index),
                                     **self._kvm_stats.of(lib.vmm_vcpu_stats_fd(self.vm, index))}
        device, name, value = ffi.new("const char **"), ffi.new("const char **"), ffi.new("uint64_t *")
        index = 0
        while lib.vmm_counter_next(self.vm, index, device, name, value):
            found.setdefault(ffi.string(device[0]).decode(), {})[ffi.string(name[0]).decode()] = value[0]
            index += 1
        found["irq"] = {"route_updates": lib.vmm_irq_commits(self.vm)}
        return found


def identity(fd: int) -> tuple[int, int] | None:
    """What an fd is open on; None if it is closed."""
    import posix

    try:
        found = posix.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def import_module(name: str) -> ModuleType:
    """As importlib.import_module, without importing that."""
    import sys

    __import__(name)
    return sys.modules[name]


def device_class(spec: dict[str, Any]) -> type[Device]:
    """The class that a plan's entry names."""
    module = load_user_file(spec["file"]) if "file" in spec else import_module(spec["module"])
    # Interned: Python's attribute cache keeps every string that it is asked for, up to 4096 of them.
    found: type[Device] = getattr(module, sys.intern(spec["class"]))
    return found


def user_file_module(path: str) -> str:
    """The name of the module that :func:`load_user_file` makes of a file."""
    return "_vmm_user_" + "".join(c if c.isalnum() else "_" for c in path)


def load_user_file(path: str) -> ModuleType:
    """The module in a file that is no package's: a device class in the caller's own script.

    It does not run as ``__main__``.
    """
    import sys
    from importlib.util import module_from_spec, spec_from_file_location

    name = user_file_module(path)
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise VmmError(f"{path} is not a Python file")
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
