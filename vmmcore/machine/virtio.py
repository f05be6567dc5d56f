# SPDX-License-Identifier: Apache-2.0
"""The once-per-device part of the virtio transport: capabilities, MSI-X, shared memory. Registers: native/virtio.c."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.virtio import F_ACCESS_PLATFORM, F_IN_ORDER, F_RING_PACKED, F_VERSION_1, VirtioDevice

from .bus import report
from .native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# BAR 0, as the anchor has it (native/virtio.h)
COMMON, ISR, CONFIG, NOTIFY, MSIX, PBA, BAR_SIZE = 0x0, 0x2000, 0x4000, 0x6000, 0x8000, 0x48000, 0x80000
NOTIFY_MULTIPLIER = 4
VENDOR_CAPABILITY = 0x09
# cfg_type, virtio 1.2 §4.1.4
CAP_COMMON, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI, CAP_SHARED_MEMORY = 1, 2, 3, 4, 5, 8
SHARED_BAR = 4


def _capability(kind: int, bar: int, offset: int, length: int, more: bytes = b"", number: int = 0) -> bytes:
    """struct virtio_pci_cap without its first two bytes."""
    head = bytes((16 + len(more), kind, bar, number, 0, 0))
    return head + (offset & 0xFFFF_FFFF).to_bytes(4, "little") + (length & 0xFFFF_FFFF).to_bytes(4, "little") + more


def offered(device: VirtioDevice) -> int:
    """The feature bits that the device offers."""
    bits = device.device_features | device.transport_features | F_VERSION_1
    if device.options.get("packed"):
        bits |= F_RING_PACKED
    if device.options.get("iommu"):
        bits |= F_ACCESS_PLATFORM
    return bits | (F_IN_ORDER if device.in_order else 0)


def create(device: VirtioDevice) -> Any:
    """The transport of a device that is being realized, and its BARs and capabilities. Raises VmmError."""
    machine, sizes = device.machine, list(device.queue_sizes)
    for size in sizes:
        if not 0 < size <= 32768 or size & (size - 1):
            raise VmmError(f"{device.id}: a queue of {size} entries: it must be a power of two up to 32768")
    first, loops = machine.take_loops(-(-len(sizes) // device.queue_group))
    virtio = lib.vmm_virtio_new(machine.vm, device.pci, device.token, len(sizes), sizes, offered(device), first, loops,
                                device.queue_group)
    if virtio == ffi.NULL:
        raise VmmError(f"{device.id}: cannot make {len(sizes)} queues: out of memory, or too many open files")
    device._virtio = virtio
    space, mask = device.config_space, device.config_writable
    if lib.vmm_virtio_config_init(virtio, space, len(space), mask, len(mask)):
        raise VmmError(f"{device.id}: a device configuration of {len(space)} bytes is too long")
    if type(device).config_written is not VirtioDevice.config_written:
        lib.vmm_virtio_config_watch(virtio)
    for bit, needed in device.feature_requires.items():
        lib.vmm_virtio_require(virtio, bit, needed)
    device.add_bar(0, BAR_SIZE, is64=True, c_handler=(ffi.addressof(lib, "vmm_virtio_io"), virtio))
    notify = NOTIFY_MULTIPLIER.to_bytes(4, "little")
    for body in (_capability(CAP_COMMON, 0, COMMON, 60), _capability(CAP_ISR, 0, ISR, 1),
                 _capability(CAP_DEVICE, 0, CONFIG, max(len(space), 4)),
                 _capability(CAP_NOTIFY, 0, NOTIFY, NOTIFY_MULTIPLIER * max(len(sizes), 1), notify)):
        device.add_capability(VENDOR_CAPABILITY, body)
    window = device.add_capability(VENDOR_CAPABILITY, _capability(CAP_PCI, 0, 0, 0, bytes(4)),
                                   b"\0\0\xff" + bytes(3) + b"\xff" * 12)
    device.add_msix(0, len(sizes) + 1, MSIX, PBA)
    lib.vmm_virtio_place(virtio, len(sizes) + 1, window)
    return virtio


def share_memory(device: VirtioDevice, regions: list[tuple[int, int, int]]) -> list[tuple[int, Any, int]]:
    """One BAR with the shared memory regions (number, bytes, fd or -1): [(number, host address, bytes), …]."""
    if not regions:
        return []
    total, places = 0, []
    for number, size, fd in regions:
        if size <= 0 or size % 4096:
            raise VmmError(f"{device.id}: shared memory of {size} bytes is no multiple of 4096")
        places.append((number, total, size, fd))
        total += size
    bar = 4096
    while bar < total:
        bar *= 2
    base = lib.vmm_shared_map(-1, bar)
    if base == ffi.NULL:
        raise VmmError(f"{device.id}: cannot map {bar} bytes of shared memory")
    device._shared_base = (base, bar)
    mapped = []
    for number, offset, size, fd in places:
        at = ffi.cast("char *", base) + offset
        if fd >= 0 and lib.vmm_shared_place(at, fd, size):
            raise VmmError(f"{device.id}: cannot map the file of shared memory region {number}")
        mapped.append((number, at, size))
        high = (offset >> 32).to_bytes(4, "little") + (size >> 32).to_bytes(4, "little")
        device.add_capability(VENDOR_CAPABILITY, _capability(CAP_SHARED_MEMORY, SHARED_BAR, offset, size, high, number))
    device.add_bar(SHARED_BAR, bar, is64=True, prefetchable=True)
    if lib.vmm_pci_bar_memory(device.pci, SHARED_BAR, base):
        raise VmmError(f"{device.id}: no memory BAR")
    return mapped


def watch_features(device: VirtioDevice) -> Any:
    """Have the device's check_features() asked at FEATURES_OK. The result keeps it so: hold it."""
    handle = ffi.new_handle(device)
    lib.vmm_virtio_check(device._virtio, lib.vmm_py_features, handle)
    return handle


@ffi.def_extern()  # type: ignore[untyped-decorator]
def vmm_py_features(opaque: object, features: int) -> int:
    device: VirtioDevice = ffi.from_handle(opaque)
    try:
        return int(device.check_features(features))
    except Exception as error:
        report(device.id, error)
        return 0
