# SPDX-License-Identifier: Apache-2.0
"""The front's half of a disk: ``--disk``, what it opens, and what the plan says about it."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Path
from vmmcore.front.ratelimit import RateLimitOptions, rate_limit
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

#: virtio 1.2 §5.2.6: bytes that GET_ID answers with
ID_BYTES = 20
#: how images that are no raw ones begin
MAGIC = {b"QFI\xfb": "qcow2", b"vhdxfile": "vhdx", b"KDMV": "vmdk", b"COWD": "vmdk", b"# Disk DescriptorFile": "vmdk",
         b"conectix": "vhd", b"QED\0": "qed"}
CONVERT = "convert it with qemu-img convert -O raw, or have a vhost-user server serve it"


class DiskOptions(RateLimitOptions, VirtioOptions):
    """``--disk``, in Cloud Hypervisor's names."""

    path = Option(Path, doc="raw image or block device")
    readonly = Option(bool, False, "refuse writes; several VMs may share such a disk")
    direct = Option(bool, False, "past the host's page cache (O_DIRECT)")
    num_queues = Option(int, 1, "virtqueues; as many as the guest has CPUs is best", min=1, max=64)
    queue_size = Option(int, 256, "entries of a virtqueue, a power of two", min=2, max=1024)
    serial: Option[str | None] = Option(str, None, "serial number, up to 20 bytes of ASCII (default: the id)")
    image_type = Option(str, "raw", "format of the image",
                        choices=("raw", "qcow2", "vhdx", "fixed_vhd", "vhd", "vmdk"))
    sparse = Option(bool, True, "blocks that the guest discards are given back to the host")
    disable_io_uring = Option(bool, False, "use a thread pool instead of io_uring")
    disable_aio = Option(bool, False, "nothing: Linux AIO is not used in any case")

    def validate(self, option: str) -> None:
        super().validate(option)
        if self.image_type != "raw":
            raise UserError(f"{option} image_type=", f"{self.image_type} images are not read by vmm itself", CONVERT)
        if self.queue_size & (self.queue_size - 1):
            raise UserError(f"{option} queue_size=", f"{self.queue_size} is no power of two", "use 128 or 256")
        serial = self.serial
        if serial is not None and not (serial.isascii() and serial.isprintable()):
            raise UserError(f"{option} serial=", "only printable ASCII can be part of it")
        if serial is not None and len(serial) > ID_BYTES:
            raise UserError(f"{option} serial=", f"{len(serial)} bytes are too long", f"the most is {ID_BYTES}")


def plan(context: PlanContext, options: DiskOptions, device: dict[str, Any]) -> None:
    """Open, lock and look at the image."""
    flag, path = "--disk path=", options.path
    if not options.readonly and not os.access(path, os.W_OK) and os.access(path, os.R_OK):
        raise UserError(flag, f"{path}: this user may not write it", "add readonly=on")
    index = context.open_file(path, flag, "r" if options.readonly else "rw", direct=options.direct, lock=True)
    _check(path, os.fstat(context.fd(index)), flag)
    device["files"] = {"image": index}
    device["options"] = {
        key: getattr(options, key)
        for key in ("readonly", "direct", "num_queues", "queue_size", "sparse", "packed", "iommu")
    }
    device["options"]["io_uring"] = not options.disable_io_uring
    device["options"]["serial"] = options.serial if options.serial is not None else device["id"][:ID_BYTES]
    device["options"].update(rate_limit(options))


def _check(path: str, status: os.stat_result, flag: str) -> None:
    """Raise UserError unless it is a disk, and one whose bytes are the guest's."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise UserError(flag, f"{path}: is neither a file nor a block device", "name a raw image")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise UserError(flag, f"{path}: is empty", f"give it a size: truncate -s 10G {path}")
    with open(path, "rb", buffering=0) as file:  # our own: direct I/O takes no few bytes
        head = file.read(64)
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            raise UserError(flag, f"{path}: is a {name} image, and its format is not read by vmm itself", CONVERT)


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("disk", "vmm_virtio_blk.device:Blk", options=DiskOptions, plan=plan,
                       doc="disk: a raw image or a block device (virtio-blk)")]
