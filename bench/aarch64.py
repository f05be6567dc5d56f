# SPDX-License-Identifier: Apache-2.0
"""An Arm host: boots and disks of ours and of ``qemu-system-aarch64 -M virt -accel kvm``, in the same arm64 lab.

By the wall clock. What the VMMs read is in the lab's page cache after the first round, which does not count.
"""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from block import UNITS as DISK_UNITS
from stats import compare, summary, table
from vmm_testkit.arch import ARCHES
from vmm_testkit.kernels import debian_kernel
from vmm_testkit.lab import Lab, LabStalled, LabTimeout

HERE = Path(__file__).resolve().parent
ARCH = ARCHES["aarch64"]
VMMS = ("vmm", "virt")
#: row's end -> unit; of those here less is better
LESS = {"exec to init": "ms", "memory beside RAM": "KiB"}
UNITS = LESS | DISK_UNITS


def run(quick: bool, only: str = "", rounds: int = 5) -> tuple[str, dict[str, Any]]:
    """`only`: "boot" or "disk"; "" is both."""
    samples: dict[str, dict[str, list[float]]] = {}
    notes: list[str] = []
    for kind in ("boot", "disk"):
        if only in ("", kind):
            measure(kind, 1 if quick else rounds, samples, notes)
    rows = [row(name, by_vmm) for name, by_vmm in samples.items()]
    cells = [
        [entry["row"], entry["unit"], *(f"{entry[vmm]['median']:.0f}" if vmm in entry else "-" for vmm in VMMS),
         f"{entry['ratio']:.2f}x" if "ratio" in entry else "-"]
        for entry in rows
    ]  # fmt: skip
    title = f"AArch64, Linux {debian_kernel(ARCH.flavours[0]).version}, in the arm64 lab"
    text = [title, table(["", "unit", *VMMS, "vmm/QEMU"], cells), *("  " + note for note in notes)]
    return "\n".join(text), {"rows": rows, "notes": notes}


def measure(kind: str, rounds: int, samples: dict[str, dict[str, list[float]]], notes: list[str]) -> None:
    """One lab; the results of its rounds but the first."""
    out, err = io.BytesIO(), io.BytesIO()
    lab = Lab(arch=ARCH.name, memory_mib=4096, cpus=2, stall_timeout=240)
    argv = [lab.python, str(HERE / "inlab_aarch64.py"), json.dumps({"rounds": rounds, "only": kind})]
    try:
        status = lab.run(argv, timeout=1500, stdout=out, stderr=err, env={"PYTHONPATH": str(HERE)})
        if status:
            notes.append(f"{kind}: the lab's job ended with status {status}: {err.getvalue().decode()[-1000:]}")
    except (LabStalled, LabTimeout) as error:
        notes.append(f"{kind}: the lab stopped ({str(error).splitlines()[0]})")
    for line in out.getvalue().split(b"\n"):
        if not (line.startswith(b"{") and line.endswith(b"}")):
            continue
        result = json.loads(line)
        values = result.get("values", {})
        if result["kind"] == "boot":
            if not result["init"]:
                said = result.get("output", "")[-300:], result.get("stderr", "")[-300:]
                notes.append(f"boot: {result['vm']}: no sign of init: {said}")
                continue
            values = {"exec to init": result["init"] / 1e6, "memory beside RAM": result["memory"]["pss"]}
        elif not values:
            notes.append(f"{result['kind']}: {result['vm']}, {result['key']}: no result: {result['output'][-300:]!r}")
        for name, value in values.items():
            title = f"{result['kind']}: {name}"
            print(f"{time.strftime('%H:%M:%S')} {title}: {result['vm']} {value:.0f}", file=sys.stderr, flush=True)
            if result["turn"]:
                samples.setdefault(title, {}).setdefault(result["vm"], []).append(value)


def row(name: str, by_vmm: dict[str, list[float]]) -> dict[str, Any]:
    end = name.split(": ")[1]
    entry: dict[str, Any] = {"row": name, "unit": UNITS[end], "clock": "wall"}
    entry |= {vmm: summary(values) for vmm, values in by_vmm.items()}
    if all(vmm in entry for vmm in VMMS):
        entry |= compare(by_vmm["vmm"], [by_vmm["virt"]], end in LESS)
    return entry
