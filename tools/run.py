# SPDX-License-Identifier: Apache-2.0
"""`make run`: a stock Debian kernel, booted by vmm, on this machine's KVM or else in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VMM = str(Path(sys.executable).parent / "vmm")
COMMAND = "uname -a; cat /proc/cpuinfo; cat /proc/meminfo | head -n 2"


def need(purpose: str) -> None:
    if subprocess.run([ROOT / "tools/apt.sh", purpose]).returncode:
        sys.exit(1)


def main() -> str:
    """Becomes the VM; returns only the line that says why it cannot."""
    from vmm_testkit.initramfs import Initramfs
    from vmm_testkit.kernels import KernelError, debian_kernel

    from vmmcore.front.check import probe_kvm

    status = probe_kvm()
    usable = status.state == "usable"
    need("run" if usable else "lab")
    try:
        kernel = debian_kernel("cloud-amd64")
    except KernelError as error:
        return f"vmm: {error}"
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        initramfs = Initramfs(kernel, mode="shell").build()
    else:
        initramfs = Initramfs(kernel, mode="command", command=COMMAND).build()
    words = "console=ttyS0 panic=-1" + ("" if terminal else " quiet")
    vmm = [VMM, "run", "--kernel", str(kernel.vmlinuz), "--initramfs", str(initramfs), "--cpus", "boot=2",
           "--memory", "size=512M", "--serial", "tty", "--cmdline", words]
    if usable:
        print(f"vmm: booting Linux {kernel.version} on this machine's KVM", flush=True)
    else:
        print(f"vmm: {status.reason}: booting Linux {kernel.version} in the lab", flush=True)
    if terminal:
        print("vmm: `exit` or Ctrl-A x ends it", flush=True)
    if not usable:
        vmm = [VMM, "lab", "--memory", "2048", *(["--tty"] if terminal else ["--timeout", "300"]), "--", *vmm]
    os.execv(vmm[0], vmm)
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
