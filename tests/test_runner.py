# SPDX-License-Identifier: Apache-2.0
"""The runner as the host sees it: what it imports, how it maps memory and pins vCPUs, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmmcore import Vm, VmConfig
from vmmcore.front.config import DeviceConfig
from vmmcore.front.launch import _write_plan, runner_argv
from vmmcore.front.planning import compile_plan

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
)

VMM = Path(sys.executable).parent / "vmm"
MIB = 1 << 20
HEAD = '#include "guest.h"\n'
FOREVER = HEAD + 'int main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'
AT_ONCE = HEAD + "int main(struct hvm_start_info *si) { (void)si; return 0; }"

# All that a runner with a serial port may import beyond what `python -I -S` itself has: one line for each that is new.
ALLOWED = {
    "__future__",
    "_cffi_backend",
    "vmmcore",
    "vmmcore._native",
    "vmmcore.cdevice",
    "vmmcore.device",
    "vmmcore.errors",
    "vmmcore.machine",
    "vmmcore.machine.assembly",
    "vmmcore.machine.bus",
    "vmmcore.machine.memory",
    "vmmcore.machine.native",
    "vmmcore.machine.pci",
    "vmmcore.machine.runner",
    "vmm_arch_x86_64",
    "vmm_arch_x86_64._native",
    "vmm_arch_x86_64.addresses",
    "vmm_arch_x86_64.machine",
    "vmm_serial",
    "vmm_serial._native",
    "vmm_serial.device",
}


def imported(argv: list[str], **options: object) -> set[str]:
    """The modules that a Python process says it imported."""
    argv = [argv[0], *argv[1:3], "-X", "importtime", *argv[3:]]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_runner_imports_only_what_the_plan_needs() -> None:
    config = VmConfig(kernel=baremetal.BareMetal(AT_ONCE).build(), memory="32M",
                      devices=[DeviceConfig("serial", "null")])
    planned = compile_plan(config)
    try:
        fd = _write_plan(planned.plan, planned.fds)
        argv = runner_argv(fd)
        seen = imported(argv, pass_fds=(fd, *planned.fds))
        os.close(fd)
    finally:
        planned.close()
    bare = imported([argv[0], "-I", "-S", "-c", "pass"])
    assert "vmm_serial.device" in seen, "the list of imports was not read"
    assert seen - bare - ALLOWED == set()


@contextmanager
def running(**config: object) -> Iterator[Vm]:
    with Vm(VmConfig(kernel=baremetal.BareMetal(FOREVER).build(), **config)) as vm:  # type: ignore[arg-type]
        vm.boot()
        yield vm


def guest_memory(pid: int, size: int) -> dict[str, str]:
    """The entry of /proc/PID/smaps for the mapping that is the guest's RAM, with its path under ""."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    for match in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)\n((?:[A-Z]\w+:.*\n)+)", text, re.M):
        if int(match[2], 16) - int(match[1], 16) == size:
            return {"": match[3]} | dict(re.findall(r"^(\w+): +(.*)$", match[4], re.M))
    raise AssertionError("no mapping of the guest's size")


@pytest.mark.parametrize(
    ("option", "path", "flag"),
    [("thp=off", "", ""), ("shared=on,thp=off", "memfd", ""), ("mergeable=on,thp=off", "", "mg"), ("thp=on", "", "hg")],
)
def test_memory_is_mapped_as_asked(option: str, path: str, flag: str) -> None:
    with running(memory=f"size=48M,{option}") as vm:
        mapping = guest_memory(vm.pid, 48 * MIB)
        assert bool(path) == ("memfd" in mapping[""])
        assert {"hg", "mg"}.intersection(mapping["VmFlags"].split()) == set(flag.split())
        assert int(mapping["Rss"].split()[0]) < 24 * 1024


def test_prefault_makes_all_of_it_resident() -> None:
    with running(memory="size=48M,prefault=on") as vm:
        assert int(guest_memory(vm.pid, 48 * MIB)["Rss"].split()[0]) == 48 * 1024


def test_huge_pages_of_an_empty_pool_are_refused_in_one_line() -> None:
    pool = Path("/proc/sys/vm/nr_hugepages")
    if int(pool.read_text()):
        pytest.skip("this host has a pool of huge pages: nothing to refuse")
    done = subprocess.run(
        [VMM, "run", "--kernel", baremetal.BareMetal(AT_ONCE).build(), "--memory", "size=64M,hugepages=on"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "huge" in done.stderr


def threads(pid: int) -> dict[str, str]:
    """The runner's threads: name -> the CPUs it may run on."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        found[(task / "comm").read_text().strip()] = re.search(r"Cpus_allowed_list:\s*(\S+)", status)[1]  # type: ignore[index]
    return found


def test_vcpus_run_where_affinity_says() -> None:
    last = max(os.sched_getaffinity(0))
    with running(memory="32M", cpus=f"boot=2,affinity=[1@[{last}]]") as vm:
        seen = threads(vm.pid)
        assert seen["vcpu1"] == str(last)
        assert seen["vcpu0"] == seen.get("vmm", seen["vcpu0"])


def test_timing_names_every_phase() -> None:
    done = subprocess.run(
        [VMM, "run", "--kernel", baremetal.BareMetal(STAMPS).build(), "--memory", "32M", "--serial", "null",
         "--timing"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
    )
    phases = re.findall(r"^vmm: timing: +[\d.]+ +\S+ +(\S+):", done.stderr, re.M)
    assert phases == ["front", "interpreter", "imports", "kvm", "load", "first-instruction", "first-exit", "kernel",
                      "init"]


STAMPS = HEAD + "int main(struct hvm_start_info *si) { (void)si; outb(0x80, 0x42); outb(0x80, 0x43); return 0; }"


def test_killed_anywhere_it_leaves_nothing(tmp_path: Path) -> None:
    kernel = baremetal.BareMetal(FOREVER).build()
    log = tmp_path / "serial"
    for step in range(25):
        process = subprocess.Popen(
            [VMM, "run", "--kernel", kernel, "--memory", "32M", "--cpus", "boot=2", "--serial", f"file={log}"],
            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        # Not a synchronisation: any moment of the start will do, and each round takes another.
        time.sleep(step * 0.004)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) in ([], ["serial"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ends_on_a_signal_with_its_number(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [VMM, "run", "--kernel", baremetal.BareMetal(HELLO).build(), "--memory", "32M", "--serial", "tty"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    process.stdout.close()


HELLO = HEAD + 'int main(struct hvm_start_info *si) { (void)si; printf("up\\n"); for (;;) __asm__ volatile("pause"); }'


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VMM, "run", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60)


def test_a_truncated_kernel_is_refused(tmp_path: Path) -> None:
    whole = baremetal.BareMetal(AT_ONCE).build().read_bytes()
    cut = tmp_path / "vmlinux"
    cut.write_bytes(whole[: len(whole) // 2])
    done = run("--kernel", cut, "--memory", "64M")
    assert done.returncode == 2
    assert re.fullmatch(r"vmm: error: --kernel: .*\n", done.stderr)


def test_an_initramfs_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "initramfs"
    big.touch()
    os.truncate(big, 200 * MIB)
    done = run("--kernel", baremetal.BareMetal(AT_ONCE).build(), "--initramfs", big, "--memory", "64M")
    assert done.returncode == 2
    assert re.fullmatch(r"vmm: error: --initramfs: .*--memory.*\n", done.stderr)


def test_a_plan_can_be_kept_and_run(tmp_path: Path) -> None:
    kernel = baremetal.BareMetal(HEAD + 'int main(struct hvm_start_info *si) { (void)si; puts("ran\\n"); return 0; }')
    planned = subprocess.run([VMM, "plan", "--json", "--kernel", kernel.build(), "--memory", "32M", "--serial", "tty"],
                             stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    (tmp_path / "plan.json").write_bytes(planned.stdout)
    done = run("--plan", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    assert "ran" in done.stdout
