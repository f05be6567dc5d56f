# SPDX-License-Identifier: Apache-2.0
"""`make run`: a Debian with a disk, a network and a virtio console, run by vmm on this machine's KVM or in the lab."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VMM = str(Path(sys.executable).parent / "vmm")
#: what a run without a terminal shows; the address comes a moment after the rest is up
COMMAND = """\
for n in $(seq 50); do ip -br -4 addr show scope global | grep -q . && break; sleep 0.2; done
uname -a
cat /proc/cpuinfo
head -n 2 /proc/meminfo
findmnt -no TARGET,SOURCE,FSTYPE,SIZE /
ip -br addr
for device in /sys/bus/virtio/devices/*; do echo "${device##*/}: $(basename $(readlink $device/driver))"; done
"""
#: the network between the guest and a TAP of its own
HOST_ADDRESS, GUEST_ADDRESS, MASK = "192.168.249.1", "192.168.249.2", "255.255.255.0"


def need(purpose: str) -> None:
    if subprocess.run([ROOT / "tools/apt.sh", purpose]).returncode:
        sys.exit(1)


def private_copy(image: Path) -> str:
    """A path for a copy of the image, which is gone when the process that this one becomes has ended."""
    fd, name = tempfile.mkstemp(prefix=".run-", dir=image.parent)  # there: it may share its blocks
    try:
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", image, name], check=True)
        # Once more: cp may have put another file there.
        copy = os.open(name, os.O_RDWR)
    finally:
        os.unlink(name)
        os.close(fd)
    os.set_inheritable(copy, True)
    return f"/proc/self/fd/{copy}"


def network(privileged: bool) -> tuple[list[str], str]:
    """The VMM's arguments, and words for the guest's kernel: a TAP, or passt for who may not make one."""
    if privileged:
        address = f"ip={GUEST_ADDRESS}::{HOST_ADDRESS}:{MASK}:::none"
        return ["--net", f"ip={HOST_ADDRESS},mask={MASK}"], address
    if shutil.which("passt"):
        return ["--net", "user"], ""
    return [], ""


def main() -> str:
    """Becomes the VM; returns only the line that says why it cannot."""
    from vmm_testkit.kernels import KernelError, debian_kernel
    from vmm_testkit.roots import BASE_PACKAGES, DebianRoot, RootError
    from vmm_testkit.system import root_initramfs

    from vmmcore.front.check import probe_kvm

    status = probe_kvm()
    usable = status.state == "usable"
    need("run" if usable else "lab")
    try:
        kernel = debian_kernel("cloud")
        root = DebianRoot(kernel, packages=BASE_PACKAGES, size_mib=2048)
        if not root.path.exists():
            print("vmm: building a Debian root file system from packages, once", flush=True)
        image = root.build()
    except (KernelError, RootError) as error:
        return f"vmm: {error}"
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    # In the lab we are root; the lab's first drive is the root file system, as a disk that forgets.
    nets, address = network(privileged=not usable or os.geteuid() == 0)
    words = f"root=/dev/vda rw panic=-1 quiet console=hvc0 {address}"
    if not terminal:
        words += f" testkit.command={base64.b64encode(COMMAND.encode()).decode()}"
    vmm = [VMM, "run", "--kernel", str(kernel.vmlinuz), "--initramfs", str(root_initramfs(kernel)), "--cpus", "boot=2",
           "--memory", "size=512M", "--disk", f"path={private_copy(image) if usable else '/dev/vda'}", *nets,
           "--console", "tty", "--serial", "off", "--rng", "src=/dev/urandom", "--cmdline", words]
    if usable:
        print(f"vmm: booting Debian with Linux {kernel.version} on this machine's KVM", flush=True)
    else:
        print(f"vmm: {status.reason}: booting Debian with Linux {kernel.version} in the lab", flush=True)
    if terminal:
        print("vmm: log in as root (no password); `poweroff` or Ctrl-A x ends it", flush=True)
    if not usable:
        wait = ["--tty"] if terminal else ["--timeout", "300"]
        vmm = [VMM, "lab", "--memory", "2048", "--drive", f"root={image}", *wait, "--", *vmm]
    os.execv(vmm[0], vmm)
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
