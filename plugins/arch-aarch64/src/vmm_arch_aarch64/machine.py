# SPDX-License-Identifier: Apache-2.0
"""The runner's half of AArch64: interrupt controller, vCPUs, the GED (all done in C)."""

from __future__ import annotations

from vmmcore.errors import KvmError, VmmError
from vmmcore.machine.assembly import GED_POWER
from vmmcore.machine.assembly import Platform as Base

from . import addresses as at
from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PMU = 2
DEFAULT_BITS = 40  # what machine type 0 means
HINTS = {
    "KVM_CREATE_DEVICE of a GICv3": "this host's interrupt controller must be a GICv3 or newer",
    "KVM_CREATE_DEVICE of a GICv3 ITS": "the host kernel's KVM must provide an ITS for MSIs",
    "KVM_ARM_VCPU_INIT": "KVM refuses the CPU's features; was the plan made on another host?",
}


class Platform(Base):
    """See :class:`vmmcore.machine.assembly.Platform`."""

    irqchip, irq_pins = 0, at.IRQS - 32
    irq_line_base = 1 << 24 | 32  # KVM_ARM_IRQ_TYPE_SPI, and the first SPI's INTID
    msi_device_ids = True
    all_vcpus_first = True
    fixed_cpus = "cpus: their number cannot change: that takes --cpus max= beyond boot=, and ACPI (--firmware)"
    ports = (at.PORTS, at.PORTS_SIZE)

    def __init__(self, machine: Any) -> None:
        super().__init__(machine)
        self._plan: dict[str, Any] = machine.plan["platform"]
        self._vcpus: list[int] = []
        self._arch = lib.arch_new(ffi.cast("void *", machine.api_address),
                                  ffi.cast("void *", machine.vm_address))
        if self._arch == ffi.NULL:
            raise VmmError("arch-aarch64 was built for another version of the core; reinstall both")
        self._features = lib.arch_features(self._arch, self._plan["features"])

    @staticmethod
    def vm_type(plan: dict[str, Any]) -> int:
        """Guest-physical address bits; 0 for 40, which every KVM knows."""
        bits = int(plan["platform"]["phys_bits"])
        return 0 if bits == DEFAULT_BITS else bits

    def _check(self, result: int) -> int:
        if result < 0:
            what = ffi.string(lib.arch_failed(self._arch)).decode()
            raise KvmError(what, -result, HINTS.get(what, ""))
        return result

    def create(self) -> None:
        self._check(lib.arch_create(self._arch))

    def init_vcpu(self, index: int, fd: int) -> None:
        """Features and affinity; all but the first wait for PSCI's CPU_ON."""
        mpidr = self._plan["mpidrs"][index]
        self._check(lib.arch_init_vcpu(self._arch, fd, self._features, index > 0, mpidr))
        self._vcpus.append(fd)

    def put_away_vcpu(self, index: int, fd: int) -> None:
        self._check(lib.arch_put_away_vcpu(self._arch, fd))

    def revive_vcpu(self, index: int, fd: int) -> None:
        self._check(lib.arch_revive_vcpu(self._arch, fd, self._features))

    def realize(self) -> None:
        gic = self._plan["gic"]
        where = ffi.new("struct arch_gic *", (gic["dist"], gic["redist"][0], gic["its"], at.IRQS))
        self._check(lib.arch_init_gic(self._arch, where))
        if self._features & PMU:
            for fd in self._vcpus:
                self._check(lib.arch_init_pmu(self._arch, fd, 16 + at.PMU_PPI))

    def set_entry(self, entry: dict[str, Any]) -> None:
        """First registers of vCPU 0, and random bytes for this boot."""
        self._check(lib.arch_set_entry(self._arch, self._vcpus[0], entry["pc"], entry["x0"]))
        import posix

        for gpa, size in self._plan["seeds"]:
            self.machine.memory.write(gpa, posix.urandom(size))

    def stop_clock(self) -> None:
        self._check(lib.arch_clock_stop(self._arch, self._vcpus[0]))

    def start_clock(self) -> None:
        self._check(lib.arch_clock_start(self._arch, self._vcpus[0]))

    def describe_vcpu(self, fd: int) -> list[str]:
        room = 2048
        out = ffi.new("char[]", room)
        words = ffi.string(out, lib.arch_describe(self._arch, fd, out, room)).decode().split()
        pairs = [f"{name} {value}" for name, value in zip(words[::2], words[1::2], strict=True)]
        return ["  " + "  ".join(pairs[n : n + 4]) for n in range(0, len(pairs), 4)]

    def power_button(self) -> None:
        """By ACPI's event device and by a GPIO; the guest knows one of them."""
        pressed = bool(self._plan.get("ged"))
        if pressed:
            self.notify(GED_POWER)
        for device in self.machine.devices.values():
            press = getattr(device, "power_button", None)
            if press is not None:
                press()
                pressed = True
        if not pressed:
            super().power_button()

    def close(self) -> None:
        """Unmap everything; further calls do nothing."""
        if self._arch != ffi.NULL:
            lib.arch_free(self._arch)
            self._arch = ffi.NULL
