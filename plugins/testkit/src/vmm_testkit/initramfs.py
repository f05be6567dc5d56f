# SPDX-License-Identifier: Apache-2.0
"""Initial RAM file systems made on the fly: busybox, chosen modules with what they need, files, an init."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmm_testkit.arch import Arch, arch_of
from vmm_testkit.cache import cache_dir, make_file
from vmm_testkit.cpio import CpioWriter
from vmm_testkit.foreign_root import foreign_root
from vmm_testkit.guest_init import init_script, stamp_program
from vmm_testkit.host import run
from vmm_testkit.kernels import Kernel
from vmm_testkit.modules import ModuleError, ModuleTree, module_name, read_module

MODES = ("loop", "shell", "command", "root")

# Links cost boot time, so only what tests and people use; `busybox NAME` reaches every other applet.
_APPLETS = """
arp ash awk base64 basename blockdev bunzip2 cat chmod chown chroot clear cmp cp cttyhack cut date dd devmem
df diff dirname dmesg dnsdomainname du echo egrep env expr false find fold free grep gunzip gzip halt head
hexdump hostname httpd id ifconfig insmod ip kill killall ln loadkmap losetup ls lsmod md5sum microcom mkdir
mkfifo mknod mkswap mktemp modprobe more mount mv nc nproc nslookup od paste pidof ping poweroff printf ps
pwd readlink realpath reboot reset rm rmdir rmmod route sed seq setsid sh sha1sum sha256sum sha512sum sleep
sort stat stty swapoff swapon switch_root sync sysctl tail tar taskset tee test time timeout top touch tr
traceroute true truncate tty udhcpc umount uname uniq unshare uptime usleep vi watch wc wget which xargs xxd
yes zcat
"""
APPLETS = tuple(_APPLETS.split())


class InitramfsError(Exception):
    """The initramfs cannot be made; one line that says why and what to do."""


def _find_busybox(root: Path) -> Path:
    for candidate in ("usr/bin/busybox", "bin/busybox"):
        path = root / candidate
        # A dynamic busybox (package "busybox") would not start in the guest.
        if path.exists() and b"ld-linux" not in path.read_bytes()[:4096]:
            return path
    raise InitramfsError("static busybox is missing: run `apt-get install busybox-static` as root")


def shared_libraries(program: Path, root: Path = Path("/"), arch: Arch | None = None) -> list[str]:
    """Absolute paths of the shared libraries (dynamic loader included) that ``program`` needs.

    By ldd(1); of another architecture's ``program`` in the tree ``root`` (paths are as seen in there), by readelf(1).
    """
    if arch is not None and not arch.native:
        return _foreign_libraries(program, root, arch)
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if "not found" in done.stdout:
        missing = re.findall(r"(\S+) => not found", done.stdout)
        raise InitramfsError(f"{program}: shared library {missing[0]} not found")
    return re.findall(r"(/\S+) \(0x", done.stdout)


def _foreign_libraries(program: Path, root: Path, arch: Arch) -> list[str]:
    found: dict[str, None] = {}
    todo = [program]
    for path in todo:  # grows meanwhile
        command = ["readelf", "--wide", "--program-headers", "--dynamic", str(path)]
        text = run(InitramfsError, *command, hint="the package binutils has it")
        names = re.findall(r"\(NEEDED\).*\[(.*)\]", text)
        for name in [*re.findall(r"interpreter: (.*)\]", text), *(f"/usr/lib/{arch.triplet}/{name}" for name in names)]:
            if name in found or Path(name).name.startswith("ld-") and name.startswith("/usr"):
                continue
            if not (root / name[1:]).exists():
                raise InitramfsError(f"{program}: shared library {name} is not in {root}")
            found[name] = None
            todo.append(root / name[1:])
    return list(found)


class Initramfs:
    """What an initramfs shall hold; ``build`` makes it, once per content.

    Args:
        kernel: where modules come from; may be None when ``modules`` is empty.
        modules: names, each optionally followed by options: ``"virtio_net"``, ``"vhost_net experimental_zcopytx=1"``.
            Their dependencies are added and all are loaded in order by init.
        files: guest path -> bytes, or host path (str or Path) whose executable bit is kept.
        programs: names or paths of host programs, put at their own path with their shared libraries.
        mode: "loop" (commands by ``DebianGuest``), "shell" (interactive, powers off at its end), "command"
            (run ``command`` with sh, print ``vmm-exit-status: N``, power off) or "root" (go on with the ext4 file
            system on the disk that the kernel's ``root=`` names, default /dev/vda).
        stamp: let init begin by writing 0x42 to I/O port 0x80, and write 0x43 there when it is ready for
            commands, so that a VMM can tell when it got there (``vmm run --timing``); on x86-64 only.
        init: text of another /init script (``mode`` is then not used).
        optional_modules: like ``modules``, but left out when the kernel has no such module.
        compress: gzip the archive; unpacking costs boot time.
        arch: the guest's architecture, where there is no ``kernel`` to ask (default: this machine's). Programs of
            another one than this machine's come from :func:`vmm_testkit.foreign_root.foreign_root`.

    Raises InitramfsError for anything that is missing.
    """

    def __init__(
        self,
        kernel: Kernel | None = None,
        *,
        modules: Sequence[str] = (),
        files: Mapping[str, bytes | str | Path] | None = None,
        programs: Sequence[str | Path] = (),
        mode: str = "loop",
        command: str = "",
        hostname: str = "guest",
        stamp: bool = True,
        init: str | None = None,
        optional_modules: Sequence[str] = (),
        compress: bool = False,
        arch: str = "",
    ) -> None:
        if mode not in MODES:
            raise InitramfsError(f"mode {mode!r}: use one of {', '.join(MODES)}")
        if not re.fullmatch(r"[A-Za-z0-9.-]+", hostname):
            raise InitramfsError(f"hostname {hostname!r}: letters, digits, dots and hyphens only")
        self._kernel = kernel
        self._arch = kernel.arch if kernel is not None else arch_of(arch)
        self._root = Path("/") if self._arch.native else foreign_root(self._arch)
        stamp = stamp and self._arch.name == "x86_64"
        self._compress = compress
        self._init = init_script(mode, hostname, stamp) if init is None else init
        self._files: dict[str, bytes | Path] = {}
        self._links: dict[str, str] = {}
        self._modules = self._order(modules, optional_modules)
        self._add_base(stamp)
        if mode == "command" and init is None:
            self._files["etc/testkit-command"] = (command + "\n").encode()
        for program in programs:
            self._add_program(program)
        for path, content in (files or {}).items():
            self._files[path.strip("/")] = (
                content if isinstance(content, bytes) else self._host_file(Path(content))
            )

    @staticmethod
    def _host_file(path: Path) -> Path:
        if not path.is_file():
            raise InitramfsError(f"{path}: no such file")
        return path

    def _order(self, modules: Sequence[str], optional: Sequence[str]) -> list[tuple[str, str]]:
        """(module path, options) in load order."""
        if not modules and not optional:
            return []
        if self._kernel is None:
            raise InitramfsError("modules need a kernel to come from: pass kernel=")
        options = {}
        for entry in (*modules, *optional):
            name, _, words = entry.partition(" ")
            options[module_name(name)] = words
        try:
            tree = ModuleTree(self._kernel.modules)
            order = dict.fromkeys(tree.load_order(entry.partition(" ")[0] for entry in modules))
            order |= dict.fromkeys(tree.load_order((e.partition(" ")[0] for e in optional), optional=True))
        except ModuleError as error:
            raise InitramfsError(str(error)) from None
        return [(path, options.get(module_name(path), "")) for path in order]

    def _add_base(self, stamp: bool) -> None:
        self._files["bin/busybox"] = _find_busybox(self._root)
        for applet in APPLETS:
            self._links[f"bin/{applet}"] = "busybox"
        if stamp:
            self._files["sbin/stamp"] = stamp_program(value=0x42)
            self._files["sbin/stamp-ready"] = stamp_program(value=0x43)
        self._files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\n"
        self._files["etc/group"] = b"root:x:0:\n"
        load = [f"{module_name(path)}.ko {options}".strip() + "\n" for path, options in self._modules]
        self._files["etc/modules.load"] = "".join(load).encode()

    def _add_program(self, program: str | Path) -> None:
        if self._root == Path("/"):
            found = shutil.which(str(program), path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
            where = "on this machine: install the package that has it"
        else:
            places = [Path("/usr", folder, Path(program).name) for folder in ("bin", "sbin")]
            found = next((str(path) for path in places if (self._root / str(path)[1:]).is_file()), None)
            where = f"in the lab's {self._arch.name} root"
        if found is None:
            raise InitramfsError(f"program {program} is not {where}")
        # A symlink such as an alternative would point at nothing in the guest: its target's content goes in.
        self._files[found.strip("/")] = path = (self._root / found[1:]).resolve()
        # The program shadows the applet of the same name, whatever directory it is in.
        self._links.pop(f"bin/{Path(found).name}", None)
        for library in shared_libraries(path, self._root, self._arch):
            self._files[library.strip("/")] = (self._root / library[1:]).resolve()

    def build(self) -> Path:
        """Path of the archive in the cache; made if it is not there yet."""
        suffix = ".img.gz" if self._compress else ".img"
        return make_file(cache_dir("initramfs") / (self._key() + suffix), self._write)

    def write(self, path: Path) -> Path:
        """Make the archive at ``path``."""
        self._write(path)
        return path

    def _key(self) -> str:
        # Host files are known by identity, not content: reading them all would cost more than it saves.
        parts: list[object] = ["1", self._init, sorted(self._links.items()), self._modules]
        if self._modules and self._kernel:
            dep = (self._kernel.modules / "modules.dep").stat()
            parts.append((str(self._kernel.modules), dep.st_mtime_ns, dep.st_size))
        for name, content in sorted(self._files.items()):
            if isinstance(content, bytes):
                parts.append((name, hashlib.sha256(content).hexdigest()))
            else:
                info = content.stat()
                parts.append((name, str(content), info.st_mtime_ns, info.st_size, info.st_mode))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _write(self, path: Path) -> None:
        with open(path, "wb") as raw:
            if self._compress:
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    self._fill(CpioWriter(packed))  # type: ignore[arg-type]
            else:
                self._fill(CpioWriter(raw))

    def _fill(self, archive: CpioWriter) -> None:
        for directory in ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "sbin", "usr/bin", "usr/sbin"):
            archive.directory(directory)
        # The kernel opens /dev/console for init before anything is mounted.
        archive.device("dev/console", "c", 5, 1)
        archive.device("dev/null", "c", 1, 3, 0o666)
        archive.file("init", self._init.encode(), 0o755)
        for name, target in self._links.items():
            archive.symlink(name, target)
        for name, content in self._files.items():
            if isinstance(content, bytes):
                program = content[:2] in (b"#!", b"\x7fE")
                archive.file(name, content, 0o755 if program else 0o644)
            else:
                archive.file(name, content.read_bytes(), stat.S_IMODE(content.stat().st_mode) & 0o755 | 0o400)
        for module, _ in self._modules:
            assert self._kernel is not None
            archive.file(f"lib/modules/{module_name(module)}.ko", read_module(self._kernel.modules / module))
        archive.close()
