# SPDX-License-Identifier: Apache-2.0
"""Items that EDK2 looks for: ACPI and SMBIOS tables, and a kernel with its initramfs and command line.

Numbers and names: QEMU's docs/specs/fw_cfg.rst, and include/uapi/linux/qemu_fw_cfg.h of Linux.
"""

from __future__ import annotations

import struct

from .plugin import add_item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import PlanContext

CPUS, KERNEL_SIZE, INITRD_SIZE, MAX_CPUS = 0x05, 0x08, 0x0B, 0x0F
KERNEL_DATA, INITRD_DATA, CMDLINE_SIZE, CMDLINE_DATA = 0x11, 0x12, 0x14, 0x15


def add(context: PlanContext, device: dict[str, Any]) -> None:
    """Add them all. Raises UserError.

    ``Layout.extra["acpi"]``: the tables, a Blob of vmm_acpi; ``extra["smbios"]``: (entry point, tables), bytes.
    """
    extra, config = context.layout.extra, context.config
    if (blob := extra.get("acpi")) is not None:
        from vmm_acpi.loader import loader_files

        for name, data in loader_files(blob).items():
            add_item(context, device, name=name, data=data)
    if (smbios := extra.get("smbios")) is not None:
        for name, data in zip(("anchor", "tables"), smbios, strict=True):
            add_item(context, device, name=f"etc/smbios/smbios-{name}", data=data)
    add_item(context, device, key=CPUS, data=struct.pack("<H", config.cpus.boot))
    add_item(context, device, key=MAX_CPUS, data=struct.pack("<H", config.cpus.max))
    if config.kernel is not None:
        _add_file(context, device, config.kernel, "--kernel", KERNEL_SIZE, KERNEL_DATA)
        text = context.cmdline.encode() + b"\0"
        add_item(context, device, key=CMDLINE_SIZE, data=struct.pack("<I", len(text)))
        add_item(context, device, key=CMDLINE_DATA, data=text)
    if config.initramfs is not None:
        _add_file(context, device, config.initramfs, "--initramfs", INITRD_SIZE, INITRD_DATA)


def _add_file(context: PlanContext, device: dict[str, Any], path: str, option: str,
              size_key: int, data_key: int) -> None:
    size = add_item(context, device, key=data_key, path=path, option=option)
    add_item(context, device, key=size_key, data=struct.pack("<I", size))
