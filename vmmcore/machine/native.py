# SPDX-License-Identifier: Apache-2.0
"""Calling the C core: errors become exceptions that name the ioctl, errno and the likely cause."""

from __future__ import annotations

from vmmcore._native import ffi, lib
from vmmcore.errors import ExitCode, KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["VmHandle", "check", "ffi", "lib", "open_vm"]

#: (call, errno) or (None, errno) -> the likely cause
_HINTS = {
    ("open of the KVM device", 2): "there is no /dev/kvm: load KVM's driver, or enable virtualization "
    "in the firmware (nested virtualization in a VM); `vmm check` says more",
    ("open of the KVM device", 13): "no permission for /dev/kvm: add the user to the group that owns it (kvm)",
    ("KVM_CREATE_VM", 12): "out of memory, or the limit of locked memory",
    ("KVM_CREATE_VCPU", 22): "more vCPUs than this KVM allows",
    ("KVM_IRQFD", 22): "no such GSI, or KVM has no in-kernel interrupt controller",
    ("memfd_create", 22): "no huge pages of this size on this host",
    ("mmap", 12): "not enough memory: less --memory, or more huge pages in the pool (vm.nr_hugepages)",
    ("KVM_SET_USER_MEMORY_REGION", 17): "guest memory regions overlap",
    (None, 95): "this host's kernel is too old for vmm: Linux 4.13 or newer is needed",
    (None, 12): "out of memory",
    (None, 24): "too many open files: raise `ulimit -n`",
}

if TYPE_CHECKING:
    VmHandle = Any


def failure(vm: VmHandle, errno: int) -> KvmError:
    """The exception for the call that failed last on this VM."""
    return named_failure(ffi.string(lib.vmm_failed(vm)).decode() or "the core", errno)


def named_failure(what: str, errno: int) -> KvmError:
    """The exception for a call of this name that failed."""
    return KvmError(what, errno, _HINTS.get((what, errno)) or _HINTS.get((None, errno), ""))


def check(vm: VmHandle, result: int) -> int:
    """Pass a result on, or raise KvmError for a negative errno."""
    if result < 0:
        raise failure(vm, -result)
    return result


def open_vm(device: str = "/dev/kvm", kind: int = 0) -> VmHandle:
    """A new VM of KVM's machine type `kind`; freed with ``lib.vmm_vm_free``. Raises KvmError."""
    err, what = ffi.new("int *"), ffi.new("const char **")
    vm = lib.vmm_vm_new(device.encode(), kind, err, what)
    if vm == ffi.NULL:
        name, errno = ffi.string(what[0]).decode(), err[0]
        error = KvmError(name, errno, _HINTS.get((name, errno)) or _HINTS.get((None, errno), ""))
        error.exit_code = ExitCode.USAGE  # nothing has been started
        raise error
    return vm
