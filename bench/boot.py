# SPDX-License-Identifier: Apache-2.0
"""Time from a VMM's exec to the guest's init, and memory beside guest RAM: ours, and QEMU's microvm and q35.

All in one run of the lab; with the clock that counts instructions (``icount``) one run per VMM, because those
runs sometimes stop and short ones are repeated sooner.
"""

from __future__ import annotations

import io
import json
import marshal
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bundle
from stats import ratio, summary, table
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import debian_kernel
from vmm_testkit.lab import Lab, LabStalled, LabTimeout

from vmmcore.front.config import DeviceConfig

RAM_MIB = 512
CMDLINE = "console=ttyS0 quiet reboot=t panic=-1"
INIT = "#!/bin/sh\necho vmm-bench-init\nwhile :; do /bin/busybox sleep 1000; done\n"
OUTER = Path(__file__).resolve().parent

#: name -> what it is
VARIANTS = {
    "vmm": "runner alone, its plan ready; kernel unpacked by the host",
    "vmm run": "the same with the front: command line, plugins, planning",
    "vmm linux64": "vmlinux by the 64-bit boot protocol",
    "vmm bzImage": "runner alone; bzImage as it is, unpacked by the guest",
    "microvm": "qemu -M microvm,pic=on,pit=on,rtc=on",
    "microvm-defaults": "qemu -M microvm",
    "q35": "qemu -M q35",
}
CORE = ("vmm", "vmm run", "vmm bzImage", "microvm", "microvm-defaults", "q35")


class Bench:
    """Everything that a run in the lab needs, in one temporary directory."""

    def __init__(self, cmdline: str = CMDLINE, init: str = INIT, variants: Sequence[str] = CORE) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="vmm-bench-"))
        try:
            self._prepare(cmdline, init, variants)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shutil.rmtree(self.dir, ignore_errors=True)

    def _prepare(self, cmdline: str, init: str, variants: Sequence[str]) -> None:
        kernel = debian_kernel("cloud-amd64")
        self.kernel_version = kernel.version
        self.kernel, self.initramfs = self.dir / "bzImage", self.dir / "initramfs"
        shutil.copy(kernel.vmlinuz, self.kernel)
        Initramfs(init=init, stamp=False).write(self.initramfs)
        common = [
            "--initramfs",
            str(self.initramfs),
            "--serial",
            "tty",
            "--memory",
            f"size={RAM_MIB}M",
            "--cmdline",
            cmdline,
        ]
        config = {
            "kernel": self.kernel,
            "initramfs": self.initramfs,
            "cmdline": cmdline,
            "memory": f"size={RAM_MIB}M",
            "devices": [DeviceConfig("serial", "tty")],
        }
        vmm = ["--kernel", str(self.kernel), *common]
        guest = {self.kernel, self.initramfs}
        extra = {
            "vmm": (),
            "vmm linux64": ("boot-linux,protocol=linux64",),
            "vmm pvh": ("boot-linux,protocol=pvh",),
            "vmm bzImage": ("boot-linux,extract=off",),
            "vmm --timing": (),
        }
        runner: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        for name in variants:
            job: dict[str, Any] = {"name": name, "ram": RAM_MIB << 20}
            if name in extra:
                plan = self.dir / (name.replace(" ", "-") + ".plan")
                runner, read = make_plan(plan, **config, plugins=extra[name])
                guest |= {plan, *read}
                job |= {"plan": str(plan), "runner": runner}
            elif name == "vmm run":
                cache = Path.home() / ".cache"
                guest.update(path for path in (cache / "vmm/boot").glob("*") if path.is_file())
                job |= {
                    "argv": [str(Path(sys.prefix) / "bin/vmm"), "run", *vmm],
                    "env": {"XDG_CACHE_HOME": str(cache)},
                }
            else:
                machine = VARIANTS[name].split()[-1]
                job["qemu"] = [
                    "-accel",
                    "kvm",
                    "-M",
                    machine,
                    "-cpu",
                    "host",
                    "-m",
                    f"{RAM_MIB}M",
                    "-smp",
                    "1",
                    "-nodefaults",
                    "-no-user-config",
                    "-display",
                    "none",
                    "-nic",
                    "none",
                    "-serial",
                    "stdio",
                    "-kernel",
                    str(self.kernel),
                    "-initrd",
                    str(self.initramfs),
                    "-append",
                    cmdline,
                    "-no-reboot",
                ]
            self.jobs[name] = job
        self.bundle = self.dir / "bundle.tar"
        bundle.write(self.bundle, bundle.files(["plan", *vmm], guest))

    def run(
        self,
        names: Sequence[str],
        *,
        icount: bool,
        repeat: int = 1,
        timeout: float = 600,
        cpus: int = 2,
        stall: float = 60,
        **extra: Any,
    ) -> Iterator[dict[str, Any]]:
        """Boot the variants in turn, `repeat` rounds, in one run of the lab; yields what each boot gave.

        Raises LabStalled or LabTimeout after the results that came.
        """
        jobs = [bundle.with_qemu({**self.jobs[name], **extra}, icount) for _ in range(repeat) for name in names]
        job_file = self.dir / "jobs.json"
        job_file.write_text(json.dumps(jobs))
        argv = [
            "/bin/sh",
            str(OUTER / "enter.sh"),
            str(self.bundle),
            str(job_file),
            bundle.base_python(),
            "-I",
            "-S",
            str(OUTER / "inlab.py"),
            "/jobs.json",
        ]
        out, err = io.BytesIO(), io.BytesIO()
        failure: Exception | None = None
        lab = Lab(memory_mib=4096, cpus=cpus, icount=icount, stall_timeout=stall)
        try:
            status = lab.run(argv, timeout=timeout, stdout=out, stderr=err)
            if status:
                text = err.getvalue().decode(errors="replace").strip()
                raise RuntimeError(f"the lab's job ended with status {status}: {text[-2000:]}")
        except (LabStalled, LabTimeout) as error:
            failure = error
        for line in out.getvalue().split(b"\n"):
            if line.startswith(b"{") and line.endswith(b"}"):
                yield json.loads(line)
        if failure:
            raise failure


def make_plan(target: Path, **config: Any) -> tuple[list[str], list[Path]]:
    """Compile a plan as the front does, into `target`.

    Returns the runner's command line, without the plan's fd at its end, and the files that the plan names.
    """
    from vmmcore.front import launch
    from vmmcore.front.config import VmConfig
    from vmmcore.front.planning import compile_plan

    with compile_plan(VmConfig(**config)) as planned:
        plan = {**planned.plan, "control": -1, "start": True, "parent_death": False, "t0": 0}
        target.write_bytes(marshal.dumps(plan))
        return launch.runner_argv(0)[:-1], [Path(entry["path"]) for entry in plan["files"] if "path" in entry]


def show(results: Sequence[dict[str, Any]], title: str) -> tuple[str, dict[str, Any]]:
    """The table, and the same as data."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(result["name"], []).append(result)
    data: dict[str, Any] = {}
    for name, rows in groups.items():
        good = [row for row in rows if row["init"]]
        if not good:
            data[name] = {"failed": len(rows)}
            continue
        data[name] = {
            "init_ms": summary([row["init"] / 1e6 for row in good]),
            "pss_kib": summary([row["memory"]["pss"] for row in good]),
            "private_kib": summary([row["memory"]["private"] for row in good]),
            "kvm_exits": summary([row["kvm"].get("exits", 0) for row in good]),
            "failed": len(rows) - len(good),
        }
    base = {key: data.get(key, {}).get("init_ms", {}).get("median") for key in ("microvm", "microvm-defaults", "q35")}
    rows_out = []
    for name, entry in data.items():
        if "init_ms" not in entry:
            rows_out.append([name, "failed", *["-"] * 7])
            continue
        init = entry["init_ms"]
        rows_out.append(
            [
                name,
                f"{init['median']:.0f}",
                f"{init['min']:.0f}..{init['max']:.0f}",
                str(init["n"]),
                ratio(init["median"], base["microvm"]),
                ratio(init["median"], base["q35"]),
                f"{entry['pss_kib']['median'] / 1024:.1f}",
                f"{entry['private_kib']['median'] / 1024:.1f}",
                f"{entry['kvm_exits']['median']:.0f}",
            ]
        )
    header = ["VMM", "init ms", "range", "n", "/microvm", "/q35", "PSS MiB", "private MiB", "KVM exits"]
    return f"{title}\n" + table(header, rows_out), data


def wall_clock(quick: bool) -> tuple[str, dict[str, Any]]:
    """All variants in turn on two emulated CPUs, one lab; its first round warms up and is dropped.

    Should the lab stop, another one makes the rounds that are missing.
    """
    bench = Bench()
    wanted = 1 if quick else 5
    rounds: list[list[dict[str, Any]]] = []
    notes: list[str] = []
    try:
        for _ in range(3):
            got: list[dict[str, Any]] = []
            try:
                for row in bench.run(CORE, icount=False, repeat=wanted - len(rounds) + 1, timeout=900, stall=75):
                    got.append(row)
            except (LabStalled, LabTimeout) as error:
                notes.append(f"the lab stopped after {len(got)} boots ({str(error).splitlines()[0]})")
            rounds += [got[at : at + len(CORE)] for at in range(len(CORE), len(got), len(CORE))]
            if len(rounds) >= wanted:
                break
    finally:
        bench.close()
    text, data = show([row for turn in rounds for row in turn], f"Boot in the lab, wall clock, {legend(bench)}")
    return "\n".join([text, *("  " + note for note in notes)]), data


def counted(quick: bool) -> tuple[str, dict[str, Any]]:
    """Every variant in its own runs of the lab, until there are enough boots.

    The first boot of a run warms up and is dropped, the next ones are kept.
    """
    bench = Bench()
    results: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        for name in CORE:
            mine = [row for row in _counted(bench, name, 1 if quick else 5, notes) if row["init"]]
            results += mine
            times = [row["init"] for row in mine]
            if len(times) > 1 and max(times) / min(times) > 1.01:
                notes.append(f"{name}: boots differ by {100 * (max(times) / min(times) - 1):.1f} %")
    finally:
        bench.close()
    text, data = show(results, f"Boot in the lab, time counted in instructions, {legend(bench)}")
    return "\n".join([text, *("  " + note for note in notes)]), data


def _counted(bench: Bench, name: str, wanted: int, notes: list[str]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for _ in range(4 * wanted):
        if len(kept) >= wanted:
            break
        got: list[dict[str, Any]] = []
        try:
            for row in bench.run([name], icount=True, repeat=min(wanted - len(kept), 5) + 1, timeout=240, stall=30):
                got.append(row)
        except (LabStalled, LabTimeout):
            notes.append(f"{name}: the lab stopped after {len(got)} boots; went on with another")
        kept += got[1:]
    return kept[:wanted]


def legend(bench: Bench) -> str:
    return f"Linux {bench.kernel_version}, {RAM_MIB} MiB, 1 vCPU"
