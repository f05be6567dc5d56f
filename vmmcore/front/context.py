# SPDX-License-Identifier: Apache-2.0
"""What architectures, boot methods and device types plan with: :class:`Layout` and :class:`PlanContext`."""

from __future__ import annotations

import os
import sys

from .. import plan as planfile
from ..errors import UserError, VmmError
from .config import VmConfig, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    import pluggy

    from ..hooks import Arch
    from .plugins import Plugins

    class Observer(Protocol):
        def close(self) -> None: ...


class Layout:
    """Where an architecture puts things. All addresses are guest-physical, all sizes bytes.

    ram           [(address, size), …], ascending
    segments      PCI segments: [{"id", "ecam": address, "mmio32": [base, size], "mmio64": …, "pio": …}, …]
    gsis          interrupts for platform devices, handed out in this order
    pci_gsis      interrupts of INTx: slot n has ``pci_gsis[n % len(pci_gsis)]``
    load_min      lowest address for a kernel
    low_ram_end   end of the RAM below the 32-bit hole
    hotplug       zone of memory ("": --memory) → (address, bytes) kept free for what comes later
    extra         the architecture's own
    """

    __slots__ = ("extra", "gsis", "hotplug", "load_min", "low_ram_end", "pci_gsis", "ram", "segments")

    def __init__(
        self,
        *,
        ram: list[tuple[int, int]],
        segments: list[dict[str, Any]] | None = None,
        gsis: list[int] | None = None,
        pci_gsis: list[int] | None = None,
        load_min: int = 0x100000,
        low_ram_end: int | None = None,
        hotplug: dict[str, tuple[int, int]] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.ram, self.segments = ram, segments or []
        self.gsis, self.pci_gsis = list(gsis or []), list(pci_gsis or [])
        self.load_min = load_min
        self.low_ram_end = ram[0][0] + ram[0][1] if low_ram_end is None else low_ram_end
        self.hotplug = hotplug or {}
        self.extra = extra or {}


def place_hotplug(start: int, room: list[tuple[str, int, int]]) -> tuple[dict[str, tuple[int, int]], int]:
    """For :attr:`Layout.hotplug`: what is wanted (zone, bytes, alignment), from `start` on; and the end of it."""
    places = {}
    for zone, size, align in room:
        start = -(-start // align) * align
        places[zone] = (start, size)
        start += size
    return places, start


def share(base: int, size: int, weights: list[int], unit: int) -> list[list[int]]:
    """Cut a window of addresses by weights, in whole `unit` bytes: [base, bytes] for each."""
    whole = size // sum(weights) // unit * unit
    result = []
    for weight in weights:
        result.append([base, whole * weight])
        base += whole * weight
    return result


class FrontContext:
    """What a flag of the front itself, no device, is planned with (``DeviceType(bus="front")``).

    hooks     the hooks of all loaded plugins
    vm_id     the VM that it was given for, or None: for all VMs of this front
    dry_run   nothing may be created or changed on the host
    """

    def __init__(self, plugins: Plugins, *, vm_id: str | None = None, dry_run: bool = False) -> None:
        self.hooks, self.vm_id, self.dry_run = plugins.hooks, vm_id, dry_run
        self._plugins = plugins
        self._created: list[Callable[[], object]] = []

    def observe(self, observer: Observer) -> None:
        """Have hooks be methods of an object: those that are marked with ``@hookimpl``.

        Its ``close()`` is called when the VM has ended, or the front, whichever the flag was given for.
        """
        import weakref

        self._plugins.manager.register(observer)
        self._created.append(weakref.finalize(self, _forget, self._plugins.manager, observer))

    def release(self) -> None:
        """The VM, or the front, has ended: what was made for it goes. Else that goes with this object."""
        for finalizer in self._created:
            finalizer()


def _forget(manager: pluggy.PluginManager, observer: Observer) -> None:
    manager.unregister(observer)
    observer.close()


class PlanContext(FrontContext):
    """What device types, boot methods and architectures plan with.

    config, layout, arch   what is being planned
    plan                   the plan so far
    fds                    open files, parallel to ``plan["files"]``
    dry_run                nothing may be created or changed on the host
    """

    def __init__(
        self,
        config: VmConfig,
        layout: Layout,
        plan: dict[str, Any],
        arch: Arch,
        plugins: Plugins,
        fds: list[int],
        *,
        dry_run: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(plugins, vm_id=config.id, dry_run=dry_run)
        self.config, self.layout, self.plan, self.arch = config, layout, plan, arch
        self.fds = fds
        self._tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
        self._gsis = list(layout.gsis)
        self._gsi_owners: set[int] = set()
        self._claims: dict[str, list[tuple[int, int, str]]] = {"port": [], "address": []}
        self._cmdline: str | None = config.cmdline

    # --- files ------------------------------------------------------------

    def open_file(self, path: str, option: str, mode: str = "r", *, direct: bool = False, lock: bool = False) -> int:
        """Open a file now; its index in ``plan["files"]``. Mode r, rw, w (truncates), a. Raises UserError.

        direct  past the page cache (O_DIRECT)
        lock    refuse a file that another VM writes (or, mode rw, has open), and have this one refused to others
                for as long as the VM lives. Not when nothing may be changed on the host (`dry_run`)
        """
        path = os.path.abspath(path)
        entry: dict[str, Any] = {"path": path, "mode": mode}
        entry.update({key: True for key, wanted in (("direct", direct), ("lock", lock)) if wanted})
        if mode == "r" and entry in self.plan["files"]:
            return int(self.plan["files"].index(entry))
        if self.dry_run and mode in ("w", "a"):
            return self._add(planfile.open_path("/dev/null", "rw", option), entry)
        fd = planfile.open_path(path, mode, option, direct=direct, lock=lock and not self.dry_run)
        return self._add(fd, entry)

    def open_stdio(self, number: int) -> int:
        """A copy of our stdin (0), stdout (1) or stderr (2); its index in ``plan["files"]``."""
        entry = {"stdio": number}
        if entry in self.plan["files"]:
            return int(self.plan["files"].index(entry))
        return self._add(planfile.dup_stdio(number), entry)

    def open_pty(self, option: str, link: str | None = None) -> int:
        """A new pseudo terminal's master, raw; index in ``plan["files"]``. Its path is told on stderr."""
        if self.dry_run:
            return self._add(planfile.open_path("/dev/null", "rw", option), {"pty": link})
        master, slave = planfile.open_pty(link, option, lambda path: self._tell(f"vmm: {option}: {path}"))
        index = self._add(master, {"pty": link})
        self._add(slave, {"pty_slave": index})  # held open, or the master is hung up between users
        return index

    def open_socket(self, path: str, option: str) -> int:
        """A new Unix stream socket that listens at `path`; its index in ``plan["files"]``. Raises UserError.

        The path goes with this context (so, if the VM cannot be made) and with the process. A runner that takes
        this process's place removes it: the file's entry has ``node``, [path, st_dev, st_ino].
        """
        entry: dict[str, Any] = {"listen": path}
        if self.dry_run:
            return self._add(planfile.open_path("/dev/null", "rw", option), entry)
        import weakref

        from .unixsocket import listen, remove

        fd, entry["node"] = listen(path, option)
        self._created.append(weakref.finalize(self, remove, entry["node"], os.getpid()))
        return self._add(fd, entry)

    def open_memory(self, path: str, size: int, shared: bool) -> int:
        """A file that backs `size` bytes of RAM; its index in ``plan["files"]``. Raises UserError.

        In a folder (a tmpfs or hugetlbfs), a file without a name is made. One that is there must be long enough.
        """
        option = "--memory-zone file="
        if not os.path.isdir(path):
            index = self.open_file(path, option, "rw" if shared else "r")
            if os.fstat(self.fds[index]).st_size < size:
                raise UserError(option, f"{path} is shorter than {human_size(size)}", "make it longer")
            return index
        entry = {"memory": path, "size": size}
        if self.dry_run:
            return self._add(planfile.open_path("/dev/null", "rw", option), entry)
        return self._add(planfile.open_memory(path, size, option), entry)

    def adopt_fd(self, fd: int, description: dict[str, Any]) -> int:
        """Take over an open descriptor (a socket, a TAP); its index in ``plan["files"]``.

        `description` says what it is in ``vmm plan``; such a plan cannot be saved and run later.
        """
        return self._add(planfile.above_stdio(fd), description)

    def _add(self, fd: int, entry: dict[str, Any]) -> int:
        self.fds.append(fd)
        self.plan["files"].append(entry)
        return len(self.fds) - 1

    def fd(self, index: int) -> int:
        """The open descriptor of a file index. It stays the context's."""
        return self.fds[index]

    # --- memory -----------------------------------------------------------

    def in_ram(self, gpa: int, size: int) -> bool:
        """Whether [gpa, gpa + size) lies in one piece of RAM."""
        return any(base <= gpa and gpa + size <= base + length for base, length in self.layout.ram)

    def load_file(self, gpa: int, file_index: int, offset: int, size: int) -> None:
        """Have `size` bytes at `offset` of a file read to `gpa` before the guest starts. Raises VmmError."""
        self._check_load(gpa, size)
        self.plan["load"].append({"gpa": gpa, "file": file_index, "offset": offset, "size": size})

    def load_bytes(self, gpa: int, data: bytes) -> None:
        """Have `data` written to `gpa` before the guest starts. Raises VmmError."""
        self._check_load(gpa, len(data))
        self.plan["load"].append({"gpa": gpa, "data": bytes(data)})

    def _check_load(self, gpa: int, size: int) -> None:
        if not self.in_ram(gpa, size):
            raise UserError(
                "--memory size=",
                f"{human_size(self.config.memory.size)} has no room for {size} bytes at {gpa:#x}",
                "give the guest more memory",
            )

    # --- interrupts and address space ---------------------------------------

    def gsi(self, number: int | None = None) -> int:
        """The next free interrupt for a platform device, or the one given. Raises VmmError if taken."""
        if number is None:
            if not self._gsis:
                raise VmmError("no interrupt is left for another platform device; configure fewer")
            number = self._gsis[0]
        elif number in self._gsi_owners:
            raise VmmError(f"interrupt {number} is claimed twice")
        if number in self._gsis:
            self._gsis.remove(number)
        self._gsi_owners.add(number)
        return number

    def ports(self, base: int, length: int, owner: str) -> None:
        """Claim I/O ports. Raises VmmError naming both owners if one is taken."""
        self._claim("port", base, length, owner)

    def mmio(self, base: int, length: int, owner: str) -> None:
        """Claim guest-physical addresses that are no RAM. Raises VmmError, naming both owners, if taken."""
        for start, size in self.layout.ram:
            if base < start + size and start < base + length:
                raise VmmError(f"{owner}: address {base:#x} is RAM")
        self._claim("address", base, length, owner)

    def _claim(self, what: str, base: int, length: int, owner: str) -> None:
        for start, size, other in self._claims[what]:
            if base < start + size and start < base + length:
                raise VmmError(f"{owner} and {other} both claim {what} {max(base, start):#x}; leave one out")
        self._claims[what].append((base, length, owner))

    # --- devices and command line ---------------------------------------------

    def device_plan(self, key: str | None = None) -> list[dict[str, Any]]:
        """The devices planned so far; of one type if `key` is given. Each is the dict in the plan."""
        devices: list[dict[str, Any]] = self.plan["devices"]
        return [device for device in devices if key is None or device["type"] == key]

    @property
    def cmdline(self) -> str:
        """The kernel's command line: the user's, else the words of plugins. Ask when devices are planned."""
        if self._cmdline is None:
            words = [word for part in reversed(self.hooks.vmm_cmdline_words(context=self)) for word in part]
            self._cmdline = " ".join(dict.fromkeys(words))
        return self._cmdline
