# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shlex
import struct
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vmm_testkit.baremetal import BareMetal, BareMetalError

GUESTS = Path(__file__).parent / "guests"
# A microvm with a device at the sleep port that ends QEMU: status (0x34 << 1) | 1.
MICROVM = shlex.split(
    "-M microvm,acpi=off -m 64 -nodefaults -no-user-config -display none -serial stdio -no-reboot "
    "-device isa-debug-exit,iobase=0x600,iosize=4 -kernel {kernel}"
)
OFF = 0x34 << 1 | 1

Factory = Callable[..., BareMetal]


def main(body: str) -> str:
    return f'#include "guest.h"\nint main(struct hvm_start_info *si)\n{{\n(void)si;\n{body}\n}}\n'


def test_the_elf_has_a_pvh_note_that_names_the_entry(baremetal: Factory) -> None:
    elf = baremetal(main("return 0;")).build().read_bytes()
    assert elf[:6] == b"\x7fELF\x02\x01"
    entry, headers = struct.unpack_from("<QQ", elf, 24)
    count = struct.unpack_from("<H", elf, 56)[0]
    segments = [struct.unpack_from("<IIQQQQQQ", elf, headers + 56 * n) for n in range(count)]
    (note,) = [segment for segment in segments if segment[0] == 4]
    name_size, value_size, kind = struct.unpack_from("<III", elf, note[2])
    assert (name_size, kind, elf[note[2] + 12 : note[2] + 16]) == (4, 18, b"Xen\0")
    assert int.from_bytes(elf[note[2] + 16 : note[2] + 16 + value_size], "little") == entry
    loads = [segment for segment in segments if segment[0] == 1]
    assert min(segment[4] for segment in loads) == 0x100000


def test_it_is_compiled_once_per_content(baremetal: Factory) -> None:
    first = baremetal(main("return 1;")).build()
    stamp = first.stat().st_mtime_ns
    assert baremetal(main("return 1;")).build() == first
    assert first.stat().st_mtime_ns == stamp
    assert baremetal(main("return 2;")).build() != first
    assert baremetal(main("return 1;"), defines={"X": 1}).build() != first


def test_what_does_not_compile_says_where(baremetal: Factory) -> None:
    with pytest.raises(BareMetalError, match="guest.c:5:.*no_such_thing"):
        baremetal(main("return no_such_thing;")).build()


@pytest.mark.parametrize(("guest", "cpus"), [("library.c", 1), ("smp.c", 4)])
def test_library_under_emulation(baremetal: Factory, qemu: str, guest: str, cpus: int) -> None:
    argv = [qemu, "-accel", "tcg", "-cpu", "max", "-smp", str(cpus), *MICROVM]
    result = baremetal(GUESTS / guest, defines={"CPUS": cpus}).run(argv=argv)
    assert result.exit == 0, result.output
    assert "FAIL" not in result.output
    assert result.vmm_status == OFF
    if guest == "library.c":
        assert "magic 336ec578 text -5 123456789ab c|   42\n" in result.output


def test_failed_checks_are_counted_and_shown(baremetal: Factory, qemu: str) -> None:
    body = 'CHECK(1 == 2, "one is %d", 1); CHECK(1, "fine"); CHECK(0, "never");\nreturn 0;'
    result = baremetal(main(body)).run(argv=[qemu, "-accel", "tcg", *MICROVM])
    assert result.exit == 2
    assert "FAIL guest.c:5: 1 == 2: one is 1\n" in result.output
    with pytest.raises(AssertionError, match="guest exit 2"):
        result.check()


def test_an_unexpected_exception_ends_the_guest(baremetal: Factory, qemu: str) -> None:
    result = baremetal(main('__asm__ volatile("ud2"); return 0;')).run(argv=[qemu, "-accel", "tcg", *MICROVM])
    assert result.exit == 255
    assert "unexpected exception 6 " in result.output


def test_a_guest_that_hangs_is_killed(baremetal: Factory, qemu: str) -> None:
    guest = baremetal(main('puts("before\\n"); for (;;) pause();'))
    with pytest.raises(BareMetalError, match=r"(?s)no end after 3 s.*before"):
        guest.run(argv=[qemu, "-accel", "tcg", *MICROVM], timeout=3)


@pytest.mark.needs_kvm
@pytest.mark.parametrize(("guest", "cpus"), [("library.c", 1), ("smp.c", 2)])
def test_library_under_vmm(baremetal: Factory, guest: str, cpus: int) -> None:
    installed = {entry.name for entry in entry_points(group="vmmcore")}
    if not {"arch-x86_64", "boot-linux", "serial"} <= installed:
        pytest.skip("vmm-arch-x86_64, vmm-boot-linux or vmm-serial is missing: install them with pip")
    baremetal(GUESTS / guest, defines={"CPUS": cpus}).run(cpus=f"boot={cpus}").check()
