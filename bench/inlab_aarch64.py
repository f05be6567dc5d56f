# SPDX-License-Identifier: Apache-2.0
"""What runs in the arm64 lab: boots, then fio, of ours and of QEMU's virt in turn. One line of JSON per result.

``python inlab_aarch64.py '{"rounds": N, "only": TEXT}'`` with this directory in PYTHONPATH; the first round warms up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import block
import inlab
import inlab_io
import io_guest
from aarch64 import VMMS
from boot import INIT, RAM_MIB
from io_lab import DISKS
from vmm_testkit.arch import arch_of
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import debian_kernel

#: seconds: an emulated host of this kind is slow, above all when it starts a program for the first time
PATIENCE = 180.0


def command(name: str, kernel: Path, initramfs: Path, cpus: int, words: list[str]) -> list[str]:
    cmdline = f"{arch_of().guest_words} panic=-1"
    if name == "vmm":
        vmm = str(Path(sys.prefix) / "bin/vmm")
        return [vmm, "run", "--kernel", str(kernel), "--initramfs", str(initramfs), "--cmdline", cmdline,
                "--serial", "tty", "--memory", f"size={RAM_MIB}M", "--cpus", f"boot={cpus}", *words]  # fmt: skip
    return ["/usr/bin/qemu-system-aarch64", "-accel", "kvm", "-M", "virt,gic-version=3", "-cpu", "host",
            "-smp", str(cpus), "-m", f"{RAM_MIB}M", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-name", "vm,debug-threads=on",
            "-kernel", str(kernel), "-initrd", str(initramfs), "-append", cmdline,
            *(words or ["-nic", "none"])]  # fmt: skip


def turns(rounds: int) -> list[tuple[int, str]]:
    """(round, VMM): who begins changes."""
    return [(turn, VMMS[(turn + at) % len(VMMS)]) for turn in range(rounds + 1) for at in range(len(VMMS))]


def boots(rounds: int, kernel: Path, folder: Path) -> None:
    initramfs = Initramfs(init=INIT, stamp=False).write(folder / "boot")
    for turn, name in turns(rounds):
        argv = command(name, kernel, initramfs, 1, [])
        job = {"name": name, "ram": RAM_MIB << 20, "argv": argv, "patience": PATIENCE}
        inlab_io.say(turn=turn, kind="boot", vm=name, **inlab.boot(job))


def disks(rounds: int, kernel: Path, initramfs: Path, queues: int) -> None:
    vms: dict[str, Any] = {}
    title = f"disk, {queues} queue{'s' if queues > 1 else ''}"
    try:
        for n, name in enumerate(VMMS):
            argv = command(name, kernel, initramfs, queues, block.words(name, n, queues, "none"))
            vms[name] = inlab_io.Vm({"name": name, "argv": argv}, PATIENCE)
        for turn, name in turns(rounds):
            for row, line in block.commands(queues, "time", "none", False):
                step = {"key": row, "output": vms[name].command(line)["output"]}
                inlab_io.say(turn=turn, kind=title, vm=name, values=block.read(step), **step)
    finally:
        for vm in vms.values():
            vm.close()


def main() -> None:
    job = json.loads(sys.argv[1])
    kernel = debian_kernel(arch_of().flavours[0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if job["only"] in ("", "boot"):
            boots(job["rounds"], kernel.vmlinuz, folder)
        if job["only"] in ("", "disk"):
            setup = DISKS.replace("@QUEUES@", "2")
            subprocess.run(["/bin/sh", "-ec", setup], check=True, stdout=sys.stderr)
            initramfs = io_guest.initramfs(folder / "disk", kernel, ("fio",))
            for queues in (1, 4):
                disks(job["rounds"], kernel.vmlinuz, initramfs, queues)


if __name__ == "__main__":
    main()
