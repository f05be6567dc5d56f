# SPDX-License-Identifier: Apache-2.0
"""What runs in the lab: start a VMM, wait for the guest's marker, look at its memory and counters, end it.

``python -I -S inlab.py JOB.json``; one line of JSON per boot on standard output. Standard library only.
"""

from __future__ import annotations

import json
import marshal
import os
import select
import signal
import sys
import time

MARKER = b"vmm-bench-init"
PATIENCE = 45  # seconds that a boot may take, unless the job says otherwise
STATS = (
    "exits",
    "io_exits",
    "mmio_exits",
    "halt_exits",
    "irq_exits",
    "irq_injections",
    "irq_window",
    "hypercalls",
    "insn_emulation",
    "fpu_reload",
    "host_state_reload",
    "signal_exits",
    "pf_fixed",
    "pf_taken",
    "nmi_window",
    "request_irq",
    "invlpg",
    "tlb_flush",
    "nested_run",
    "preemption_reported",
    "req_event",
)


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def runner_command(job: dict, keep: list[int]) -> list[str]:  # type: ignore[type-arg]
    """The runner's command line for a plan that was prepared outside; its files stay open in `keep`."""
    with open(job["plan"], "rb") as file:
        plan = marshal.load(file)
    modes = {"r": os.O_RDONLY, "rw": os.O_RDWR, "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC}
    for entry in plan["files"]:
        if "stdio" in entry:
            keep.append(os.dup((keep[0], keep[1], keep[1])[entry["stdio"]]))
        else:
            keep.append(os.open(entry["path"], modes[entry["mode"]]))
    plan["fds"] = keep[2:]
    plan["timing"] = bool(job.get("timing"))
    plan["t_exec"] = clock()
    memfd = os.memfd_create("plan", 0)
    os.write(memfd, marshal.dumps(plan))
    keep.append(memfd)
    for fd in keep:
        os.set_inheritable(fd, True)
    return [*job["runner"], str(memfd)]


def memory(pid: int, ram: int) -> dict[str, int]:
    """KiB outside guest RAM; a mapping of at least `ram` bytes, none of it reserved only, is guest RAM."""
    total = {"pss": 0, "private": 0, "rss": 0, "guest_rss": 0}
    size = pss = rss = private = 0

    def count() -> None:
        if ram and size * 1024 >= ram and rss:
            total["guest_rss"] += rss
        else:
            total["pss"] += pss
            total["private"] += private
            total["rss"] += rss

    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name == "Size":
                count()
                size, pss, rss, private = int(rest.split()[0]), 0, 0, 0
            elif name == "Pss":
                pss = int(rest.split()[0])
            elif name == "Rss":
                rss = int(rest.split()[0])
            elif name in ("Private_Clean", "Private_Dirty"):
                private += int(rest.split()[0])
    count()
    return total


def kvm_stats(pid: int) -> dict[str, int]:
    """KVM's own counters of the process's VM, from debugfs."""
    root = "/sys/kernel/debug/kvm"
    found: dict[str, int] = {}
    try:
        names = [name for name in os.listdir(root) if name.startswith(f"{pid}-")]
    except OSError:
        return found
    for name in names:
        for folder in (f"{root}/{name}", f"{root}/{name}/vcpu0"):
            for stat in STATS:
                try:
                    with open(f"{folder}/{stat}") as file:
                        found[stat] = max(found.get(stat, 0), int(file.read()))
                except (OSError, ValueError):
                    pass
    return {key: value for key, value in found.items() if value}


def boot(job: dict) -> dict:  # type: ignore[type-arg]
    """One boot. "init": ns from just before exec to the marker's arrival here."""
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()  # never written: the VMM's standard input stays open and silent
    err_read, err_write = os.pipe()
    keep = [in_read, out_write]
    argv = runner_command(job, keep) if "plan" in job else job["argv"]
    actions = [
        (os.POSIX_SPAWN_DUP2, in_read, 0),
        (os.POSIX_SPAWN_DUP2, out_write, 1),
        (os.POSIX_SPAWN_DUP2, err_write, 2),
    ]
    start = clock()
    pid = os.posix_spawn(
        argv[0],
        argv,
        {"PATH": "/usr/bin:/bin", "HOME": "/", **job.get("env", {})},
        file_actions=actions,
        setpgroup=0,
    )
    for fd in keep:
        os.close(fd)
    os.close(err_write)
    seen, said, first, when = b"", b"", 0, 0
    end_word = job.get("until", "").encode() or MARKER
    poll = select.poll()
    poll.register(out_read, select.POLLIN)
    poll.register(err_read, select.POLLIN)
    open_fds = 2
    while open_fds and not when:
        left = int(1000 * job.get("patience", PATIENCE)) - (clock() - start) // 1_000_000
        if left <= 0:
            said += b"bench: no sign of the guest's init\n"
            break
        for fd, _ in poll.poll(left):
            data = os.read(fd, 65536)
            now = clock()
            if not data:
                poll.unregister(fd)
                open_fds -= 1
            elif fd == err_read:
                said += data
            else:
                first = first or now
                seen += data
                if end_word in seen:
                    when = now
    result = {
        "name": job["name"],
        "init": when - start if when else 0,
        "first_output": first - start if first else 0,
    }
    if when:
        result["memory"] = memory(pid, job.get("ram", 0))
        result["kvm"] = kvm_stats(pid)
    try:
        os.killpg(pid, signal.SIGTERM if job.get("timing") else signal.SIGKILL)
    except ProcessLookupError:
        pass
    _, status, usage = os.wait4(pid, 0)
    if job.get("timing"):
        while data := os.read(err_read, 65536):
            said += data
    result["cpu"] = int((usage.ru_utime + usage.ru_stime) * 1e9)
    if not when or job.get("output"):
        result["output"] = seen.decode(errors="replace")
    if said:
        result["stderr"] = said.decode(errors="replace")[-4000:]
    result["status"] = status
    for fd in (out_read, in_write, err_read):
        os.close(fd)
    return result


def main() -> None:
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    for job in jobs:
        sys.stdout.write(json.dumps(boot(job)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
