# SPDX-License-Identifier: Apache-2.0
"""Bare-metal guests: one C file and the library in ``guestlib/`` make an ELF that any VMM with PVH boots.

Such a guest is a few KiB, starts in milliseconds and touches nothing that it does not mean to, so it suits
one fact about a machine: what a register reads, whether an interrupt arrives.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from vmm_testkit.cache import cache_dir, make_file
from vmm_testkit.guest import default_vmm
from vmm_testkit.process import kill_group, spawn

LIBRARY = Path(__file__).parent / "guestlib"
# General registers only: the guest sets up no SSE state, and a KVM that interprets kernels has little of it.
_FLAGS = (
    "-m64", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only",
    "-O1", "-g0", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-std=gnu11",
    "-Wall", "-Wextra", "-Werror", "-Wno-main", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
)  # fmt: skip


class BareMetalError(AssertionError):
    """The guest does not compile, or its VMM did not end in time; the text says what was printed."""


@dataclass(frozen=True)
class BareMetalResult:
    """How a run ended: the guest's own status (None: it never got there), its output, and the VMM's."""

    exit: int | None
    output: str
    vmm_status: int
    stderr: str

    def check(self) -> BareMetalResult:
        """Raise AssertionError with all output unless the guest and the VMM both ended with 0."""
        if self.exit != 0 or self.vmm_status != 0:
            raise AssertionError(
                f"guest exit {self.exit}, VMM status {self.vmm_status}\n--- guest:\n{self.output}\n--- VMM:\n{self.stderr}"
            )
        return self


class BareMetal:
    """A guest made of one C source (a Path, or the text itself) and the library.

    Args:
        source: C with ``#include "guest.h"`` and ``int main(struct hvm_start_info *si)``.
        extra: more C or assembly files to compile in.
        defines: preprocessor names and their values.
        name: a name for messages.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        extra: Sequence[Path] = (),
        defines: Mapping[str, str | int] | None = None,
        name: str | None = None,
    ) -> None:
        self._text = source.read_text() if isinstance(source, Path) else source
        self.name = name or (source.name if isinstance(source, Path) else "guest.c")
        self._include = source.parent if isinstance(source, Path) else None
        self._extra = list(extra)
        self._defines = [f"-D{key}={value}" for key, value in (defines or {}).items()]

    def build(self) -> Path:
        """The ELF file, compiled once per content and compiler. Raises BareMetalError with gcc's messages."""
        gcc = shutil.which("gcc")
        if gcc is None:
            raise BareMetalError("gcc is missing: run `apt-get install gcc` as root")
        version = subprocess.run([gcc, "--version"], capture_output=True, check=True).stdout
        digest = hashlib.sha256(repr((_FLAGS, self._defines, self.name, self._text)).encode() + version)
        for path in [*sorted(LIBRARY.iterdir()), *self._extra, *self._headers()]:
            digest.update(path.read_bytes())
        stem = Path(self.name).stem
        return make_file(
            cache_dir("baremetal") / f"{stem}-{digest.hexdigest()[:24]}.elf", lambda p: self._compile(gcc, p)
        )

    def _headers(self) -> list[Path]:
        return sorted(self._include.glob("*.h")) if self._include else []

    def _compile(self, gcc: str, path: Path) -> None:
        header = (LIBRARY / "guest.h").read_text()
        # start.S cannot include C declarations; the two numbers that it shares with them are read out.
        shared = [
            f"-D{m[1]}={m[2]}"
            for m in re.finditer(r"^#define (MAX_CPUS|STACK_SIZE) (\d+)$", header, re.MULTILINE)
        ]
        include = [f"-I{LIBRARY}", *([f"-I{self._include}"] if self._include else [])]
        with TemporaryDirectory(prefix="vmm-baremetal-") as directory:
            main = Path(directory) / self.name
            main.write_text(self._text)
            start = Path(directory) / "start.o"
            self._gcc(gcc, *_FLAGS, *shared, "-c", str(LIBRARY / "start.S"), "-o", str(start))
            sources = [str(p) for p in (start, *sorted(LIBRARY.glob("*.c")), *self._extra, main)]
            script = f"-Wl,-T,{LIBRARY / 'link.ld'}"
            self._gcc(gcc, *_FLAGS, *self._defines, *include, script, "-o", str(path), *sources)

    def _gcc(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BareMetalError(f"{self.name} does not compile:\n{done.stderr}")

    def run(
        self,
        vmm_args: Sequence[str] = (),
        *,
        vmm: Sequence[str] | None = None,
        argv: Sequence[str] | None = None,
        memory: str = "size=64M",
        cpus: str = "boot=1",
        timeout: float = 60.0,
    ) -> BareMetalResult:
        """Boot it and wait for the end of the VMM.

        ``vmm`` and ``argv`` as in DebianGuest (``{kernel}`` stands for the ELF file). Raises BareMetalError
        when the VMM is still there after ``timeout`` seconds; it is killed then.
        """
        elf = str(self.build())
        if argv is not None:
            command = [word.replace("{kernel}", elf) for word in argv]
        else:
            command = [*(vmm or default_vmm()), "--kernel", elf, "--serial", "tty"]
            command += ["--memory", memory, "--cpus", cpus, *vmm_args]
        process = spawn(command, stdin=subprocess.DEVNULL)
        late = False
        try:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                late = True
                kill_group(process)
                out, err = process.communicate()
        finally:
            kill_group(process)
        output = out.decode(errors="replace").replace("\r\n", "\n")
        stderr = err.decode(errors="replace")
        if late:
            raise BareMetalError(
                f"{self.name}: no end after {timeout:g} s\n--- guest:\n{output}\n--- VMM:\n{stderr}"
            )
        found = re.search(r"^EXIT:(-?\d+)$", output, re.MULTILINE)
        return BareMetalResult(int(found[1]) if found else None, output, process.returncode, stderr)
