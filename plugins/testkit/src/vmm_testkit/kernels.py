# SPDX-License-Identifier: Apache-2.0
"""Stock Debian kernels: fetched with apt (no root needed), unpacked, and cached by package version."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from vmm_testkit.apt import Apt, foreign_apt
from vmm_testkit.arch import ARCHES, SUITE, Arch, arch_of
from vmm_testkit.cache import cache_dir, locked, make_dir, make_file
from vmm_testkit.host import find, run

FLAVOURS = ("cloud", "standard", *(flavour for arch in ARCHES.values() for flavour in arch.flavours))
_APT_LISTS = Path("/var/lib/apt/lists")
_APT_HINT = "run `apt-get update` as root, then try again"


class KernelError(Exception):
    """No kernel: the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package.

    ``modules`` is the directory ``…/lib/modules/<version>`` with ``modules.dep`` in it.
    """

    vmlinuz: Path
    modules: Path
    version: str
    config: Path
    package: str = ""

    @property
    def arch(self) -> Arch:
        """The architecture, as the image's PE header has it (images without one are x86-64's)."""
        with open(self.vmlinuz, "rb") as file:
            head = file.read(4096)
        at = struct.unpack_from("<I", head, 0x3C)[0] if head[:2] == b"MZ" and len(head) >= 0x40 else len(head)
        return ARCHES["aarch64" if head[at : at + 6] == b"PE\0\0\x64\xaa" else "x86_64"]

    def vmlinux(self) -> Path:
        """The ELF file inside the bzImage, unpacked once into the cache.

        Raises KernelError when the compression has no unpacker here (LZ4 and zstd need the programs
        ``lz4`` and ``zstd``).
        """
        image = self.vmlinuz.read_bytes()
        name = hashlib.sha256(image).hexdigest()[:32]
        return make_file(cache_dir("vmlinux") / name, lambda path: _write(path, extract_vmlinux(image)))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def extract_vmlinux(image: bytes) -> bytes:
    """Unpack the payload of a bzImage (Linux x86 boot protocol >= 2.08: setup header, payload_offset)."""
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        raise KernelError("not a bzImage: the setup header's HdrS magic is missing")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    try:
        if payload[:2] == b"\x1f\x8b":
            data = zlib.decompressobj(31).decompress(payload)
        elif payload[:6] == b"\xfd7zXZ\x00":
            data = lzma.LZMADecompressor().decompress(payload)
        elif payload[:3] == b"\x5d\x00\x00":
            data = lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)
        elif payload[:4] == b"\x02\x21\x4c\x18":
            # The last 4 bytes are the unpacked size, which lz4 would take for another block.
            data = _filter("lz4", ["-d", "-c"], payload[:-4])
        elif payload[:4] == b"\x28\xb5\x2f\xfd":
            data = _filter("zstd", ["-d", "-c"], payload[:-4])
        else:
            raise KernelError(f"bzImage payload has an unknown compression (magic {payload[:4].hex()})")
    except (zlib.error, lzma.LZMAError) as error:
        raise KernelError(f"bzImage payload is damaged: {error}") from None
    if data[:4] != b"\x7fELF":
        raise KernelError("bzImage payload is not an ELF file")
    return data


def _filter(program: str, args: list[str], data: bytes) -> bytes:
    if shutil.which(program) is None:
        raise KernelError(f"{program} is missing: run `apt-get install {program}` as root")
    done = subprocess.run([program, *args], input=data, capture_output=True, check=False)
    if not done.stdout:
        raise KernelError(f"{program}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def kernel_from_tree(root: Path, package: str = "") -> Kernel:
    """The kernel in a tree unpacked by ``dpkg-deb -x`` (``boot/vmlinuz-V``, ``lib/modules/V``)."""
    images = sorted(root.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise KernelError(f"{root}: expected one boot/vmlinuz-*, found {len(images)}")
    version = images[0].name.removeprefix("vmlinuz-")
    modules = root / "lib/modules" / version
    if not modules.is_dir():
        modules = root / "usr/lib/modules" / version
    return Kernel(images[0], modules, version, root / f"boot/config-{version}", package)


def debian_kernel(flavour: str = "cloud", *, suite: str = SUITE, refresh: bool = False) -> Kernel:
    """The newest ``linux-image-<flavour>`` that apt knows, from the cache or downloaded into it.

    "cloud" and "standard" are Debian's two flavours for this machine's architecture; ``suite`` is of the same
    mirror as this machine's. The answer of apt is remembered until apt's lists change; ``refresh`` asks again.
    Raises KernelError.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", flavour):
        raise KernelError(f"{flavour!r} is no kernel flavour: use one of {', '.join(FLAVOURS)}")
    if flavour in ("cloud", "standard"):
        flavour = arch_of().flavours[flavour == "standard"]
    store = cache_dir("kernels")
    label = flavour if suite == SUITE else f"{suite}-{flavour}"
    pointer = store / f"{label}.latest"
    try:
        known = kernel_from_tree(store / pointer.read_text().strip(), pointer.read_text().strip())
    except (OSError, KernelError):
        known = None
    if known and not refresh and not _apt_newer_than(pointer):
        return known
    with locked(store / f".{label}.lock"):
        try:
            apt = _apt(flavour, suite)
            package, version = _resolve(apt, flavour)
        except KernelError:
            # apt has forgotten (its lists were cleaned), but what we have still boots.
            if known and not refresh:
                return known
            raise
        name = f"{package}_{version.replace(':', '%3a')}"
        tree = make_dir(store / name, lambda path: _unpack(apt, package, version, path))
        temporary = pointer.with_suffix(".tmp")
        temporary.write_text(name + "\n")
        temporary.rename(pointer)
    return kernel_from_tree(tree, name)


def _apt_newer_than(pointer: Path) -> bool:
    try:
        return _APT_LISTS.stat().st_mtime > pointer.stat().st_mtime
    except OSError:
        return False


def _apt(flavour: str, suite: str) -> Apt:
    """The apt that has the flavour: this machine's, unless it is known to be another architecture's or suite's."""
    arch = next((arch for arch in ARCHES.values() if flavour.rpartition("-")[2] == arch.debian), arch_of())
    if arch.native and suite == SUITE:
        return Apt(KernelError, hint=_APT_HINT)
    return foreign_apt(KernelError, arch, suite)


def _resolve(apt: Apt, flavour: str) -> tuple[str, str]:
    """The versioned package behind the meta package, and its candidate version."""
    meta = f"linux-image-{flavour}"
    depends = apt.cache("depends", "--no-recommends", "--no-suggests", meta)
    found = re.search(r"^\s*Depends: (linux-image-[0-9]\S*)", depends, re.MULTILINE)
    if not found:
        raise KernelError(f"apt knows no kernel behind {meta}; {_APT_HINT}")
    package = found.group(1)
    version = apt.version(package)
    if not version:
        raise KernelError(f"apt shows no version of {package}; {_APT_HINT}")
    return package, version


def _unpack(apt: Apt, package: str, version: str, into: Path) -> None:
    download = into / "download"
    download.mkdir()
    apt.get("download", f"{package}={version}", cwd=download)
    debs = list(download.glob("*.deb"))
    if not debs:
        raise KernelError(f"apt-get download {package}: no package arrived; {_APT_HINT}")
    run(KernelError, "dpkg-deb", "-x", str(debs[0]), str(into))
    shutil.rmtree(download)
    if not (into / "lib").exists():  # since Debian 13; depmod and modprobe look there
        (into / "lib").symlink_to("usr/lib")
    kernel = kernel_from_tree(into)
    if not (kernel.modules / "modules.dep").exists():
        run(KernelError, find(KernelError, "depmod", "kmod"), "-b", str(into), kernel.version)
