# SPDX-License-Identifier: Apache-2.0
"""Can this host run VMs, and if not, why, and what to do?"""

from __future__ import annotations

import os
import sys

from ..errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEVICE = "/dev/kvm"
API_VERSION = 12  # the only one there has been since Linux 2.6.22

# linux/kvm.h: _IO(0xAE, n), _IOW(0xAE, n, size), _IOR(0xAE, n, size)
_GET_API_VERSION, _CREATE_VM, _CHECK_EXTENSION, _VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
_CREATE_VCPU, _SET_USER_MEMORY_REGION, _RUN = 0xAE41, 0x4020AE46, 0xAE80
_SET_REGS, _GET_SREGS, _SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
_CREATE_DEVICE = 0xC00CAEE0
_CAP_NR_VCPUS, _CAP_MAX_VCPUS, _CAP_ARM_VM_IPA_SIZE = 9, 66, 165
_ARM_VGIC_V3, _TEST_ONLY = 7, 1  # KVM_DEV_TYPE_ARM_VGIC_V3, KVM_CREATE_DEVICE_TEST
_EXIT_IO, _EXIT_INTERNAL_ERROR = 2, 17


class KvmStatus:
    """What :func:`probe_kvm` found.

    state   "usable", "missing", "permission", "version", "interpreted" or "broken"
    reason  one line: what was seen
    mend    one line: what to do; empty if usable
    """

    __slots__ = ("mend", "reason", "state")

    def __init__(self, state: str, reason: str, mend: str = "") -> None:
        self.state, self.reason, self.mend = state, reason, mend

    @property
    def usable(self) -> bool:
        return self.state == "usable"

    def to_dict(self) -> dict[str, Any]:
        return {"usable": self.usable, "state": self.state, "reason": self.reason, "mend": self.mend}


def _open_kvm() -> int | KvmStatus:
    """A descriptor of /dev/kvm, or why there is none."""
    import errno

    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return KvmStatus("permission", f"this user may not open {DEVICE}", _permission_mend())
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            reason = f"{DEVICE} does not exist" if error.errno == errno.ENOENT else f"{DEVICE} has no driver"
            return KvmStatus("missing", reason, _missing_mend())
        return KvmStatus("broken", f"{DEVICE}: {error.strerror}", "see `dmesg | grep -i kvm`")


def require_kvm() -> None:
    """Raise HostError, in one line, unless /dev/kvm opens. Costs microseconds."""
    found = _open_kvm()
    if isinstance(found, KvmStatus):
        raise HostError(f"{found.reason}; {found.mend}")
    os.close(found)


def kvm_max_vcpus() -> int:
    """The most vCPUs of a VM on this host; 0 when KVM cannot be asked."""
    found = _open_kvm()
    if isinstance(found, KvmStatus):
        return 0
    import fcntl

    try:
        return fcntl.ioctl(found, _CHECK_EXTENSION, _CAP_MAX_VCPUS) or fcntl.ioctl(
            found, _CHECK_EXTENSION, _CAP_NR_VCPUS
        )
    except OSError:
        return 0
    finally:
        os.close(found)


def probe_kvm() -> KvmStatus:
    """Open /dev/kvm, make a VM and run a few instructions in it."""
    kvm = _open_kvm()
    if isinstance(kvm, KvmStatus):
        return kvm
    import fcntl

    try:
        version = fcntl.ioctl(kvm, _GET_API_VERSION, 0)
        if version != API_VERSION:
            return KvmStatus(
                "version", f"KVM speaks API version {version}, not {API_VERSION}", "use a newer kernel"
            )
        machine = os.uname().machine
        if machine == "x86_64":
            return _run_tiny_guest(kvm)
        if machine == "aarch64":
            return _make_arm_vm(kvm)
        os.close(fcntl.ioctl(kvm, _CREATE_VM, 0))
        return KvmStatus("usable", f"{DEVICE} works")
    except OSError as error:
        mend = (
            "is another hypervisor using the CPU's virtualization?"
            if error.errno == 16
            else "see `dmesg | grep -i kvm`"
        )
        return KvmStatus("broken", f"KVM refused to run a guest: {error.strerror}", mend)
    finally:
        os.close(kvm)


def _make_arm_vm(kvm: int) -> KvmStatus:
    """Make a VM and ask for the interrupt controller that it will need."""
    import fcntl
    import struct

    bits = fcntl.ioctl(kvm, _CHECK_EXTENSION, _CAP_ARM_VM_IPA_SIZE)
    vm = fcntl.ioctl(kvm, _CREATE_VM, bits if 0 < bits < 40 else 0)  # 0: 40 bits, which some hosts have not
    try:
        fcntl.ioctl(vm, _CREATE_DEVICE, struct.pack("<III", _ARM_VGIC_V3, 0, _TEST_ONLY))
    except OSError:
        return KvmStatus(
            "broken",
            "this host's KVM has no GICv3 for guests",
            "use a host whose interrupt controller is a GICv3 or newer",
        )
    finally:
        os.close(vm)
    return KvmStatus("usable", f"{DEVICE} works")


def _run_tiny_guest(kvm: int) -> KvmStatus:
    """Run `int3` in the guest's kernel mode, as Linux does when it patches itself.

    A processor delivers #BP through the IDT. A KVM that interprets kernel code stops with an
    internal error there: its emulator has no software interrupts in protected mode.
    """
    import ctypes
    import fcntl
    import mmap
    import struct

    gdt, idt, code, handler, stack = 0x1000, 0x2000, 0x3000, 0x3800, 0x5000
    memory = mmap.mmap(-1, 0x10000)
    memory[gdt + 8 : gdt + 24] = struct.pack(
        "<QQ", 0x00CF9B000000FFFF, 0x00CF93000000FFFF
    )  # flat code, flat data
    memory[idt + 24 : idt + 32] = struct.pack(
        "<HHBBH", handler, 8, 0, 0x8E, 0
    )  # vector 3: 32-bit interrupt gate
    memory[code : code + 4] = b"\xcc\xe6\x11\xf4"  # int3; out 0x11, al; hlt
    memory[handler : handler + 3] = b"\xe6\x10\xf4"  # out 0x10, al; hlt
    keep = (ctypes.c_char * len(memory)).from_buffer(memory)
    vm = fcntl.ioctl(kvm, _CREATE_VM, 0)
    vcpu = -1
    try:
        fcntl.ioctl(
            vm, _SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, len(memory), ctypes.addressof(keep))
        )
        vcpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
        run = mmap.mmap(vcpu, fcntl.ioctl(kvm, _VCPU_MMAP_SIZE, 0))
        sregs = bytearray(312)
        fcntl.ioctl(vcpu, _GET_SREGS, sregs)
        segment = struct.Struct(
            "<QIHBBBBBBBBBB"
        )  # struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, …
        for index in range(6):  # cs, ds, es, fs, gs, ss
            segment.pack_into(
                sregs,
                index * 24,
                0,
                0xFFFFFFFF,
                8 if index == 0 else 16,
                11 if index == 0 else 3,
                1,
                0,
                1,
                1,
                0,
                1,
                0,
                0,
                0,
            )
        struct.pack_into("<QH6xQH6x", sregs, 192, gdt, 23, idt, 255)
        struct.pack_into("<Q", sregs, 224, 0x11)  # CR0.PE, CR0.ET
        fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
        registers = [0] * 18
        registers[6], registers[16], registers[17] = stack, code, 2  # rsp, rip, rflags
        fcntl.ioctl(vcpu, _SET_REGS, struct.pack("<18Q", *registers))
        fcntl.ioctl(vcpu, _RUN, 0)
        reason = int.from_bytes(run[8:12], sys.byteorder)
        port = int.from_bytes(
            run[34:36], sys.byteorder
        )  # struct kvm_run: io.direction, io.size, io.port at 32, 33, 34
        run.close()
    finally:
        if vcpu >= 0:
            os.close(vcpu)
        os.close(vm)
        del keep
        memory.close()
    if reason == _EXIT_IO and port == 0x10:
        return KvmStatus("usable", f"{DEVICE} works")
    if reason == _EXIT_INTERNAL_ERROR:
        return KvmStatus(
            "interpreted",
            "this KVM interprets the guest's kernel code and stops at instructions such as int3",
            "tiny guests run, Linux does not: use a host with hardware virtualization, or `vmm lab`",
        )
    return KvmStatus(
        "broken", f"a tiny guest ended with KVM exit reason {reason}", "see `dmesg | grep -i kvm`"
    )


def _permission_mend() -> str:
    import grp

    try:
        group = grp.getgrgid(os.stat(DEVICE).st_gid).gr_name
    except (KeyError, OSError):
        group = "kvm"
    if group == "root":
        group = "kvm"
    return f"add yourself to the group {group} (`sudo usermod -aG {group} $USER`) and log in again"


def _missing_mend() -> str:
    flags: set[str] = set()
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("flags"):
                    flags = set(line.split())
                    break
    except OSError:
        pass
    if "vmx" in flags or "svm" in flags:
        return f"load the driver: `sudo modprobe {'kvm_intel' if 'vmx' in flags else 'kvm_amd'}`"
    if "hypervisor" in flags:
        return "this host is itself a VM without nested virtualization: switch that on at its hypervisor"
    if os.uname().machine == "x86_64":
        return "the CPU shows no VT-x or AMD-V: switch virtualization on in the firmware setup"
    if os.uname().machine == "aarch64":
        return "KVM needs a Linux that was started at EL2: use a host, not a VM without nested virtualization"
    return "use a kernel with KVM, on a host that has hardware virtualization"
