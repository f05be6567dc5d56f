# SPDX-License-Identifier: Apache-2.0
"""A small root file system with everything that is timed in the lab.

The lab sees this machine's files by 9p, where every open is a round trip to the outside and, with the
clock that counts instructions, a jump of unknown size. So the VMMs, their libraries, Python and the guest's
files are packed here, unpacked there into RAM, and run in a chroot that has nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from vmm_testkit.initramfs import shared_libraries
from vmm_testkit.qemu import Qemu, lab_qemu

REPO = Path(__file__).resolve().parent.parent
#: where a QEMU of this machine's packages has its ROMs
SYSTEM_ROMS = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
#: what QEMU's machines read when they start a kernel
QEMU_ROMS = (
    "bios-microvm.bin",
    "bios-256k.bin",
    "bios.bin",
    "qboot.rom",
    "linuxboot_dma.bin",
    "linuxboot.bin",
    "pvh.bin",
    "kvmvapic.bin",
    "multiboot_dma.bin",
    "multiboot.bin",
    "vgabios-stdvga.bin",
)

#: Prints the files of all modules that a command of the front has imported.
_MODULES = """
import json, sys
sys.argv = ["vmm", *sys.argv[1:]]
out, sys.stdout = sys.stdout, open("/dev/null", "w")
from vmmcore.front.cli import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
names = {name for m in list(sys.modules.values())
         for name in (getattr(m, "__file__", None), getattr(m, "__cached__", None)) if isinstance(name, str)}
json.dump(sorted(names), out)
"""


def base_python() -> str:
    """The interpreter that runners use (the environment's own one is a link to it)."""
    return str(getattr(sys, "_base_executable", sys.executable))


def front_modules(arguments: list[str]) -> list[str]:
    """Files that ``vmm ARGUMENTS`` imports."""
    done = subprocess.run([sys.executable, "-c", _MODULES, *arguments], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


@cache
def qemu(*, counted: bool) -> Qemu:
    """The one to compare with, which is also the lab's own: the newest that is to be had.

    ``counted``, by the clock that counts instructions, this machine's: see :func:`vmm_testkit.qemu.lab_qemu`.
    """
    return lab_qemu(counted=counted)


def with_qemu(job: dict[str, Any], counted: bool) -> dict[str, Any]:
    """The job; if it has "qemu", the arguments of one, its "argv" starts that."""
    return {**job, "argv": [*qemu(counted=counted).command, *job["qemu"]]} if "qemu" in job else job


def qemu_files() -> set[Path]:
    """Both QEMUs, their libraries and their ROMs."""
    found: set[Path] = set()
    for which in (qemu(counted=True), qemu(counted=False)):
        *loader, program = which.program
        found.add(Path(program))
        if loader:
            done = subprocess.run([*loader, "--list", program], capture_output=True, text=True, check=True)
            found |= {Path(loader[0]), *(Path(name) for name in re.findall(r"(/\S+) \(0x", done.stdout))}
        else:
            found |= {Path(name) for name in shared_libraries(Path(program))}
        found |= {folder / name for folder in which.folders or SYSTEM_ROMS for name in QEMU_ROMS}
    return found


def _tree(top: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    for directory, _, names in os.walk(top):
        for name in names:
            if name.endswith(suffixes):
                yield Path(directory) / name


def _environment() -> Iterable[Path]:
    """What makes the environment: its metadata, links to editable packages, the interpreter's own start."""
    site = Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    yield from site.glob("*.pth")
    yield from site.glob("__editable__*.py")
    yield from site.glob("*.dist-info/entry_points.txt")
    yield from site.glob("*.dist-info/METADATA")
    # The cache knows its entries by inode, so in there the kernel is unpacked once more, in the warm-up.
    for package in ("lz4", "zstandard", "backports"):
        yield from _tree(site / package, (".py", ".pyc", ".so"))
    yield Path(sys.prefix) / "pyvenv.cfg"
    yield Path(sys.prefix) / "bin/vmm"
    yield Path(sys.prefix) / "bin/python"
    yield Path(sys.prefix) / "bin/python3"
    yield Path(sys.executable)


def files(front: list[str], guest: Iterable[Path]) -> set[Path]:
    """All paths of the bundle. `front`: arguments of the ``vmm`` command that will be timed."""
    found = {Path(name) for name in front_modules(front)}
    # We have planned with a kernel that the cache had not seen, as the front will there.
    for module in list(sys.modules.values()):
        found |= {
            Path(name)
            for name in (getattr(module, "__file__", None), getattr(module, "__cached__", None))
            if isinstance(name, str)
        }
    harness = Path(__file__).parent / "inlab.py"
    listing = (
        f"import sys, runpy, resource; runpy.run_path({str(harness)!r}); "
        "print(*[m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)], sep='\\n')"
    )
    for flags in (["-I", "-S"], ["-I"]):
        done = subprocess.run([base_python(), *flags, "-c", listing], capture_output=True, text=True, check=True)
        for name in done.stdout.split("\n"):
            if name:
                path = Path(name)
                found.add(path)
                found.add(path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc")
    stdlib = Path(os.__file__).parent
    found.update(_tree(stdlib / "encodings", (".py", ".pyc")))
    found.update(_environment())
    for top in (REPO / "vmmcore", *(REPO / "plugins").glob("*/src")):
        found.update(_tree(top, (".py", ".pyc", ".so", ".txt", ".typed")))
    found |= {harness, Path(base_python())}
    found |= qemu_files()
    programs = [Path(base_python()), *[path for path in found if path.suffix == ".so"]]
    for program in programs:
        found.update(Path(name) for name in shared_libraries(program))
    found.update(guest)
    found.add(Path("/etc/ld.so.cache"))
    return {path for path in found if path.exists()}


def write(target: Path, paths: Iterable[Path]) -> int:
    """Pack the files under their own paths with their directories, links with what they lead to.

    Returns the archive's size in bytes.
    """
    done: set[str] = set()
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:

        def add(path: Path) -> None:
            real = Path(os.path.realpath(path.parent)) / path.name
            for name in (*_links(path.parent), *reversed(real.parents[:-1]), real):
                if str(name) not in done:
                    done.add(str(name))
                    archive.add(name, str(name).lstrip("/"), recursive=False)
            if real.is_symlink():
                add(Path(os.path.join(real.parent, os.readlink(real))))

        for path in sorted(paths):
            add(path)
    return target.stat().st_size


def _links(directory: Path) -> Iterable[Path]:
    """Directories on the way that are symbolic links (as /lib is)."""
    at = Path("/")
    for part in directory.parts[1:]:
        if part == "..":
            at = at.parent
            continue
        if (at / part).is_symlink():
            yield at / part
            at = Path(os.path.realpath(at / part))
        else:
            at = at / part
