# SPDX-License-Identifier: Apache-2.0
"""One run of the lab with VMs of several VMMs side by side, each with its own disk and TAP, for block.py and net.py."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bundle
import io_guest
from vmm_testkit.kernels import debian_kernel
from vmm_testkit.lab import Lab, LabStalled, LabTimeout

HERE = Path(__file__).resolve().parent
RAM_MIB = 512
CMDLINE = "console=ttyS0 quiet reboot=t panic=-1"
#: who takes part -> what it is
VMMS = {
    "vmm": "vmm run",
    "q35": "qemu -M q35",
    "microvm": "qemu -M microvm,pcie=on,pic=on,pit=on,rtc=on",
}
DISK_MIB = 128
#: Commands of the lab's root user before the VMs start: a disk for each VM. It keeps no data and its "interrupt" comes
#: at once, so that what is measured is the way to it. TAPs are made by `taps`.
DISKS = f"""
modprobe null_blk nr_devices=0
mount -t configfs config /sys/kernel/config 2> /dev/null || :
for n in 0 1 2; do
    cd /sys/kernel/config/nullb
    mkdir nullb$n
    cd nullb$n
    echo {DISK_MIB} > size
    echo 2 > queue_mode
    echo 1 > irqmode
    echo @QUEUES@ > submit_queues
    echo 512 > blocksize
    echo 256 > hw_queue_depth
    echo 2560 > max_sectors
    echo 1 > power
    echo none > /sys/block/nullb$n/queue/scheduler
done
cd /
"""


def taps(queues: int) -> str:
    """Commands that make a TAP for each VM: tapN with the address 10.9.N.1, the guest's is 10.9.N.2."""
    words = " multi_queue" if queues > 1 else ""
    lines = ["sysctl -q -w net.core.rmem_max=67108864 net.core.wmem_max=67108864"]
    lines += ["modprobe vhost_net", "ip link set lo up"]
    for n in range(len(VMMS)):
        lines += [
            f"ip tuntap add dev tap{n} mode tap vnet_hdr{words}",
            f"ip addr add 10.9.{n}.1/24 dev tap{n}",
            f"ip link set tap{n} up",
        ]
    return "\n".join(lines)


class IoBench:
    """The guest, the VMMs and what they need, in one temporary directory.

    ``programs``: what the guest runs; ``server``: a command that runs in the lab beside the VMs.
    """

    said = ""  # what the last run had to say on its standard error

    def __init__(self, programs: tuple[str, ...], server: tuple[str, ...] = ()) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="vmm-bench-"))
        self.server = server
        try:
            kernel = debian_kernel("cloud-amd64")
            self.kernel_version = kernel.version
            self.kernel, self.initramfs = self.dir / "bzImage", self.dir / "initramfs"
            self.vmlinux = self.dir / "vmlinux"  # for us: what unpacking costs is measured elsewhere
            shutil.copy(kernel.vmlinuz, self.kernel)
            shutil.copy(kernel.vmlinux(), self.vmlinux)
            io_guest.initramfs(self.initramfs, kernel, programs)
        except BaseException:
            self.close()
            raise
        self.bundle = self.dir / "bundle.tar"

    def close(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)

    def pack(self, probe: Sequence[str]) -> None:
        """Make the bundle; ``probe``: arguments of ``vmm plan`` that import what the lab's ``vmm run`` will."""
        guest = {self.kernel, self.vmlinux, self.initramfs, HERE / "inlab_io.py"}
        arguments = ["plan", "--kernel", str(self.vmlinux), "--initramfs", str(self.initramfs), *probe]
        found = bundle.files(arguments, guest)
        for program in self.server[:1]:
            found |= {Path(program), *(Path(name) for name in bundle.shared_libraries(Path(program)))}
        bundle.write(self.bundle, found)

    def vm(self, name: str, words: Sequence[str], cpus: int, setup: Sequence[str] = ()) -> dict[str, Any]:
        """The job that starts the VM `name`; `words`: arguments for its disk or network."""
        job: dict[str, Any] = {"name": name, "setup": list(setup)}
        files = [str(self.vmlinux if name == "vmm" else self.kernel), str(self.initramfs)]
        if name == "vmm":
            job["argv"] = [str(Path(sys.prefix) / "bin/vmm"), "run", "--kernel", files[0], "--initramfs", files[1]]
            job["argv"] += ["--serial", "tty", "--memory", f"size={RAM_MIB}M", "--cpus", f"boot={cpus}"]
            job["argv"] += ["--cmdline", CMDLINE, *words]
            return job
        machine = VMMS[name].split()[-1]
        job["qemu"] = ["-accel", "kvm", "-M", machine, "-cpu", "host", "-smp", str(cpus)]
        job["qemu"] += ["-m", f"{RAM_MIB}M", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
        job["qemu"] += ["-name", "vm,debug-threads=on", "-no-reboot"]
        job["qemu"] += ["-kernel", files[0], "-initrd", files[1], "-append", CMDLINE, *words]
        return job

    def run(
        self,
        vms: Sequence[dict[str, Any]],
        steps: Sequence[dict[str, Any]],
        *,
        setup: str,
        icount: bool,
        timeout: float,
        stall: float,
        patience: float = 60,
    ) -> Iterator[dict[str, Any]]:
        """Do the steps (``vm``, ``key``, ``command``) in turn; yields each with its ``output`` and ``costs``.

        Raises LabStalled or LabTimeout after the results that came.
        """
        vms = [bundle.with_qemu(vm, icount) for vm in vms]
        job: dict[str, Any] = {"vms": vms, "steps": list(steps), "patience": patience}
        if self.server:
            job["server"] = list(self.server)
        job_file = self.dir / "job.json"
        job_file.write_text(json.dumps(job))
        argv = ["/bin/sh", str(HERE / "enter.sh"), str(self.bundle), str(job_file), bundle.base_python()]
        argv += ["-I", "-S", str(HERE / "inlab_io.py"), "/jobs.json"]
        out, err = io.BytesIO(), io.BytesIO()
        failure: Exception | None = None
        lab = Lab(memory_mib=4096, cpus=2, icount=icount, stall_timeout=stall)
        try:
            status = lab.run(argv, timeout=timeout, stdout=out, stderr=err, env={"VMM_BENCH_SETUP": setup})
            if status:
                text = err.getvalue().decode(errors="replace").strip()
                raise RuntimeError(f"the lab's job ended with status {status}: {text[-2000:]}")
        except (LabStalled, LabTimeout) as error:
            failure = error
        self.said = err.getvalue().decode(errors="replace")
        for line in out.getvalue().split(b"\n"):
            if line.startswith(b"{") and line.endswith(b"}") and "starts" not in (result := json.loads(line)):
                yield result
        if failure:
            raise failure
