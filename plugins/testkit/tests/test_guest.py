# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm_testkit.guest import DebianGuest, GuestDied, GuestTimeout
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel

Factory = Callable[..., DebianGuest]


@pytest.fixture
def emulated(qemu: str) -> list[str]:
    """A command line that runs the guest under QEMU's emulator, so that no KVM is needed."""
    return [
        qemu, *shlex.split("-accel tcg -cpu max -M q35 -m 512 -smp 2 -nodefaults -no-user-config -display none"),
        *shlex.split("-serial stdio -kernel {kernel} -initrd {initramfs} -append {cmdline}"),
    ]  # fmt: skip


@pytest.mark.busybox
def test_commands_have_output_and_status(
    debian_guest: Factory, emulated: list[str], debian_kernel: Kernel
) -> None:
    guest = debian_guest(
        argv=emulated, modules=["virtio_net"], files={"/data/x": b"x\n"}, programs=["env"], cmdline="quiet"
    )
    result = guest.run("echo out; echo err >&2; uname -r; exit 7")
    assert (result.status, result.output) == (7, f"out\nerr\n{debian_kernel.version}\n")
    assert "virtio_net" in guest.check("lsmod")
    assert guest.check("cat /data/x; pwd; nproc") == "x\n/root\n2\n"
    assert guest.check("X=1 /usr/bin/env | grep ^X=") == "X=1\n"
    assert guest.run("true").output == ""
    assert guest.check("printf 'no newline, \\342\\202\\254'") == "no newline, €"
    assert guest.check(f"x={'a' * 9000}; echo ${{#x}}") == "9000\n"
    assert "quiet" in guest.check("cat /proc/cmdline")
    assert guest.check("ls /dev/console /proc/self/stat /sys/class >/dev/null && hostname") == "guest\n"
    noise = (
        "for n in 1 2 3 4 5 6 7 8 9; do echo '<0>noise' > /dev/kmsg; echo junk > /dev/console; seq 300; done"
    )
    assert guest.check(noise) == "".join(f"{n}\n" for n in range(1, 301)) * 9
    with pytest.raises(AssertionError, match=r"`false` ended with status 1"):
        guest.check("false")
    guest.reboot()
    assert guest.boots == 2
    assert guest.check("echo again") == "again\n"
    assert guest.poweroff() == 0
    with pytest.raises(GuestDied):
        guest.run("true")


@pytest.mark.busybox
def test_a_command_without_end_times_out_and_the_guest_is_killed(
    debian_guest: Factory, emulated: list[str]
) -> None:
    with debian_guest(argv=emulated) as guest:
        with pytest.raises(GuestTimeout, match=r"(?s)the end of `sleep 1000`.*ready"):
            guest.run("sleep 1000", timeout=0.5)
        pid = guest.pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.busybox
@pytest.mark.parametrize("mode", ["command", "shell"])
def test_other_modes(mode: str, debian_kernel: Kernel, emulated: list[str]) -> None:
    image = Initramfs(mode=mode, command="echo it is $((6 * 7)); exit 5").build()
    with DebianGuest(debian_kernel, image, argv=emulated, cmdline="quiet").start(wait=False) as guest:
        if mode == "shell":
            guest.expect(r"# ")
            guest.send(b"echo it is $((6 * 7)); tty; exit\n")
            guest.expect(r"it is 42\r?\n/dev/ttyS0")
        else:
            guest.expect(r"it is 42\r?\nvmm-exit-status: 5\r?\n")
        assert guest.wait() == 0


def stand_in(tmp_path: Path, body: str) -> list[str]:
    script = tmp_path / "vmm.py"
    script.write_text(f"import sys, time\n{body}\n")
    return [sys.executable, str(script), "{cmdline}"]


def test_a_vmm_that_fails_is_quoted(tmp_path: Path) -> None:
    argv = stand_in(tmp_path, "sys.exit('cannot open the kernel')")
    with pytest.raises(GuestDied, match=r"(?s)ended \(status 1\).*cannot open the kernel"):
        DebianGuest("kernel", "initramfs", argv=argv).start()


def test_a_guest_that_never_answers_times_out(tmp_path: Path) -> None:
    argv = stand_in(tmp_path, "print('booting', flush=True); time.sleep(1000)")
    guest = DebianGuest("kernel", "initramfs", argv=argv, boot_timeout=1)
    with pytest.raises(GuestTimeout, match=r"(?s)command loop.*booting"):
        guest.start()
    assert not Path(f"/proc/{guest.pid}").exists()


def test_damaged_output_is_asked_for_again(tmp_path: Path) -> None:
    body = r"""
token = sys.argv[1].split('testkit=')[1].split()[0]
print(f'{token} ready', flush=True)
import base64, gzip
good = base64.b64encode(gzip.compress(b'the output')).decode()
answers = iter([good[:10] + 'AAAA' + good[10:], good[:8], '[ 1.5] a line of the kernel\n' + good])
for line in sys.stdin:
    number, word = line.split()
    if word in ('run', 'again'):
        print(f'noise{token} begin {number}\n{next(answers)}\n{token} end {number} 3', flush=True)
"""
    with DebianGuest("kernel", "initramfs", argv=stand_in(tmp_path, body)) as guest:
        assert guest.run("anything").output == "the output"


def test_default_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = DebianGuest("K", "I", args=["--disk", "path=x"], memory="size=1G", cpus="boot=2", cmdline="a b")
    assert guest.argv[0] == os.path.join(os.path.dirname(sys.executable), "vmm")
    words = guest.argv[guest.argv.index("--cmdline") + 1]
    assert words.startswith("console=ttyS0 ") and words.endswith(" a b")
    rest = [word for word in guest.argv[1:] if word != words]
    assert rest == shlex.split(
        "run --kernel K --initramfs I --cmdline --serial tty --memory size=1G --cpus boot=2 --disk path=x"
    )


@pytest.mark.busybox
@pytest.mark.linux_guest
def test_a_guest_of_vmm(debian_guest: Factory) -> None:
    guest = debian_guest(cpus="boot=2", programs=["lspci"])
    assert guest.check("nproc") == "2\n"
    assert "00:00.0" in guest.check("lspci -n")
    assert guest.poweroff() == 0
