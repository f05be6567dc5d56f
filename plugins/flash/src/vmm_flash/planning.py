# SPDX-License-Identifier: Apache-2.0
"""From ``--firmware`` to the plan: two banks of flash, and the file that keeps the variables."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError

from .plugin import CODE, ROOM, VARS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import PlanContext

OPTION = "--firmware"
#: the bank of the variables has a power of two of bytes, at least this many (EDK2 uses 768 KiB)
LEAST = 1 << 20
STEP = 1 << 20


def plan(context: PlanContext, path: str) -> dict[str, Any]:
    """Add the flash to the plan; returns the entry. Raises UserError."""
    firmware = context.config.firmware
    if firmware is None:
        raise UserError("--kernel", f"{path} is firmware, no kernel", f"give it as {OPTION} {path}")
    if context.arch.name != "aarch64":
        raise UserError(OPTION, f"firmware in flash is for AArch64, and this machine is {context.arch.name}",
                        "give a --kernel instead")
    code = context.open_file(path, OPTION)
    size = _check_size(context.fd(code), f"{OPTION} path=", path)
    variables = _variables(context, firmware.vars, firmware.template)
    resources = {"code": [CODE, ROOM], "vars": [VARS, os.fstat(context.fd(variables)).st_size]}
    assert size <= ROOM
    for name, (address, length) in resources.items():
        context.mmio(address, length, f"flash ({name})")
    context.plan["devices"].append({
        "id": "flash0", "type": "flash", "module": "vmm_flash.device", "class": "Flash", "bus": "platform",
        "options": {}, "resources": resources, "files": {"code": code, "vars": variables},
    })
    return {"protocol": "firmware", "pc": CODE}


def _check_size(fd: int, option: str, path: str) -> int:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(option, f"{path} is not a regular file", "copy it to one")
    if not 0 < status.st_size <= ROOM:
        raise UserError(option, f"{path} has {status.st_size} bytes, and the flash has room for 1 to {ROOM}",
                        "give another file")
    return status.st_size


def _variables(context: PlanContext, path: str | None, template: str | None) -> int:
    """The index of the file that holds the variables; made if it is not there. Its size is that of the bank."""
    source = -1
    if template is not None:
        source = context.fd(context.open_file(template, f"{OPTION} template="))
        _check_size(source, f"{OPTION} template=", template)
    if path is None or (context.dry_run and not os.path.exists(path)):
        memory = os.memfd_create("vmm-variables", os.MFD_CLOEXEC)
        try:
            _fill(memory, source)
        except BaseException:
            os.close(memory)
            raise
        return context.adopt_fd(memory, {"variables": path or "forgotten at the end"})
    option = f"{OPTION} vars="
    if not os.path.lexists(path):
        _create(path, option, source)
    index = context.open_file(path, option, "rw", lock=True)
    fd = context.fd(index)
    _check_size(fd, option, path)
    try:
        # A file that is no whole bank (768 KiB, as some builds of EDK2 have it) becomes one.
        if os.fstat(fd).st_size != _bank(os.fstat(fd).st_size) and not context.dry_run:
            _erase(fd, os.fstat(fd).st_size)
    except OSError as error:
        raise UserError(option, f"{path}: {error.strerror}", "make room for it") from None
    return index


def _bank(size: int) -> int:
    """Bytes of the bank for a file of `size` bytes."""
    return max(LEAST, 1 << (size - 1).bit_length())


def _fill(fd: int, template: int) -> None:
    """Make `fd` a bank that holds what `template` does (-1: nothing), and is erased behind it. Raises OSError."""
    size = os.fstat(template).st_size if template >= 0 else 0
    for offset in range(0, size, STEP):
        data = os.pread(template, STEP, offset)
        if data.strip(b"\0"):  # zeros are holes: Debian's template is 64 MiB of them
            os.pwrite(fd, data, offset)
    os.ftruncate(fd, size)
    _erase(fd, size)


def _erase(fd: int, offset: int) -> None:
    """Fill the bank up from `offset` on. Raises OSError."""
    end = _bank(max(offset, 1))
    while offset < end:
        offset += os.pwrite(fd, b"\xff" * min(STEP, end - offset), offset)


def _create(path: str, option: str, template: int) -> None:
    """Make the file of the variables, all of it or nothing; another run that is faster wins. Raises UserError."""
    made = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _fill(fd, template)
            os.fsync(fd)
            os.link(made, path)
        finally:
            os.close(fd)
            os.unlink(made)
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(option, f"{path} cannot be made: {error.strerror}",
                        "name a file in a folder that you may write") from None
