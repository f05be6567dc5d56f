# SPDX-License-Identifier: Apache-2.0
"""The runner's half of x86-64: interrupt controllers, vCPUs, platform registers (all done in C)."""

from __future__ import annotations

from vmmcore.errors import KvmError, VmmError
from vmmcore.machine.assembly import Platform as Base
from vmmcore.machine.native import lib as core

from . import addresses as at
from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NESTED = 1
MADT_ENABLED, MADT_ONLINE_CAPABLE = 1, 2  # flags of a CPU in the MADT (ACPI 6.5 table 5.23)
CHECKSUM = 9  # its place in a table's header (ACPI 6.5 table 5.4)
E820_RAM, E820_MAX = 1, 128
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr")
PLAIN = ("rip", "rsp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rflags", "cr0", "cr3", "cr4", "efer")
HINTS = {
    "KVM_CREATE_IRQCHIP": "the host kernel's KVM must provide interrupt controllers (CONFIG_KVM_IOAPIC)",
    "KVM_SET_CPUID2": "KVM refuses the CPU description; are cores of one kind in use?",
    "KVM_SET_MSRS": "KVM refuses an MSR that every x86-64 has",
}


class Platform(Base):
    """See :class:`vmmcore.machine.assembly.Platform`."""

    error_hint = (
        "; if stock kernels always end like this here, this machine's KVM interprets guest code: see `vmm check`"
    )

    def __init__(self, machine: Any) -> None:
        super().__init__(machine)
        self._plan: dict[str, Any] = machine.plan["platform"]
        self._boot_fd = -1
        self._vcpus: dict[int, int] = {}
        self._features = machine.plan["cpus"].get("features") or ()
        self._arch = lib.arch_new(ffi.cast("void *", machine.api_address),
                                  ffi.cast("void *", machine.vm_address))
        if self._arch == ffi.NULL:
            raise VmmError("arch-x86_64 was built for another version of the core; reinstall both")

    def _check(self, result: int) -> int:
        if result < 0:
            what = ffi.string(lib.arch_failed(self._arch)).decode()
            raise KvmError(what, -result, HINTS.get(what, ""))
        return result

    def vcpu_id(self, index: int) -> int:
        """The number to create vCPU `index` with: KVM makes it the APIC ID."""
        return int(self._plan["apic_ids"][index])

    def create(self) -> None:
        big = int(max(self._plan["apic_ids"]) > 254)
        self._check(lib.arch_create(self._arch, at.KVM_TSS, at.KVM_IDENTITY_MAP, big))

    def init_vcpu(self, index: int, fd: int) -> None:
        """CPUID, MSRs, FPU and local APIC."""
        threads, cores, dies, packages = self._plan["topology"]
        flags = NESTED if "nested" in self._features else 0
        cpu = ffi.new("struct arch_cpu *", (self.vcpu_id(index), threads, cores, dies, packages,
                                            self._plan["phys_bits"], 0, flags))
        self._check(lib.arch_init_vcpu(self._arch, fd, cpu))
        self._vcpus[index] = fd
        if index == 0:
            self._boot_fd = fd

    def set_entry(self, entry: dict[str, Any]) -> None:
        """First registers of vCPU 0; the others wait for INIT and SIPI."""
        state = ffi.new("struct arch_entry *")
        for name in PLAIN:
            if name in entry:
                setattr(state, name, entry[name])
        for name in SEGMENTS:
            selector, attributes, base, limit = entry[name]
            setattr(state, name, (base, limit, selector, attributes))
        state.gdt_base, state.gdt_limit = entry["gdt"]
        state.idt_base, state.idt_limit = entry["idt"]
        self._check(lib.arch_set_entry(self._arch, self._boot_fd, state))
        self._say_which_cpus()

    def revive_vcpu(self, index: int, fd: int) -> None:
        """It waits for INIT and SIPI, which set all of it but what it was made with."""
        self._check(lib.arch_revive_vcpu(self._arch, fd))

    def _say_which_cpus(self) -> None:
        """After a reboot the MADT says which CPUs are there now."""
        table, boot = self._plan.get("madt"), self.machine.plan["cpus"]["boot"]
        if not table or table["enabled"] == boot:
            return
        memory, address = self.machine.memory, table["address"]
        size = int.from_bytes(memory.read(address + 4, 4), "little")
        data = bytearray(memory.read(address, size))
        for index, place in enumerate(table["flags"]):
            data[place] = MADT_ENABLED if index < boot else MADT_ONLINE_CAPABLE
        data[CHECKSUM] = 0
        data[CHECKSUM] = -sum(data) & 0xFF
        memory.write(address, bytes(data))

    def map_ram(self, gpa: int, size: int) -> bool:
        """One more range at the end of the memory map, which kernels sort."""
        count_at, count_size, table, entry = self._plan["memory_map"]
        memory = self.machine.memory
        count = int.from_bytes(memory.read(count_at, count_size), "little")
        if count >= E820_MAX:
            return False
        memory.write(table + count * entry, b"".join((gpa.to_bytes(8, "little"), size.to_bytes(8, "little"),
                                                      E820_RAM.to_bytes(entry - 16, "little"))))
        memory.write(count_at, (count + 1).to_bytes(count_size, "little"))
        return True

    def realize(self) -> None:
        plan = self._plan
        where = ffi.new("struct arch_platform *", {
            "sleep_port": plan["sleep_port"], "reset_port": plan["reset_port"],
            "pm_timer_port": plan["pm_timer_port"], "rtc_port": plan["rtc_port"], "i8042": plan["i8042"],
            "low_ram": plan["low_ram"], "high_ram": plan["high_ram"]})
        self._check(lib.arch_realize(self._arch, where))

    def stop_clock(self) -> None:
        self._check(lib.arch_clock_stop(self._arch))

    def start_clock(self) -> None:
        self._check(lib.arch_clock_start(self._arch, list(self._vcpus.values()), len(self._vcpus)))

    def save_vcpu(self, fd: int) -> bytes:
        """The whole state of a vCPU that does not run."""
        room = 1 << 16
        while True:
            out = ffi.new("uint8_t[]", room)
            used = lib.arch_save_vcpu(self._arch, fd, out, room)
            if used != -105:  # ENOBUFS
                return bytes(ffi.buffer(out, self._check(used)))
            room *= 2

    def restore_vcpu(self, fd: int, data: bytes) -> None:
        self._check(lib.arch_restore_vcpu(self._arch, fd, data, len(data)))

    def save(self) -> dict[str, Any]:
        out = ffi.new("uint8_t[]", 512)
        return {"version": 1, "registers": bytes(ffi.buffer(out, self._check(
            lib.arch_save_platform(self._arch, out, 512)))), "ged": core.vmm_ged_pending(self.machine.vm)}

    def restore(self, state: dict[str, Any]) -> None:
        self._check(lib.arch_restore_platform(self._arch, state["registers"], len(state["registers"])))
        self.notify(state["ged"])

    def close(self) -> None:
        """Unmap everything; further calls do nothing."""
        if self._arch != ffi.NULL:
            lib.arch_free(self._arch)
            self._arch = ffi.NULL
