# SPDX-License-Identifier: Apache-2.0
"""The ports in a whole machine, used by a bare-metal guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.baremetal import BareMetal
from vmmcore.errors import ExitCode

pytestmark = pytest.mark.needs_kvm


def guest(body: str) -> BareMetal:
    return BareMetal('#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si;' + body + " return 0; }")


def test_console_goes_to_the_file(tmp_path: Path) -> None:
    guest("""
    for (const char *p = "debug\\n"; *p; p++) outb(0xe9, *p);
    static const char text[] = "string\\n";
    const char *from = text;
    u64 count = sizeof text - 1;
    __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"((u16)0xe9) : "memory");
    CHECK(inb(0xe9) == 0xe9, "reads %x", inb(0xe9));
    """).run(["--debugcon", f"file={tmp_path}/log"]).check()
    assert (tmp_path / "log").read_text() == "debug\nstring\n"


def test_console_shares_the_terminal_with_the_serial_port() -> None:
    result = guest("puts(\"serial\\n\"); outb(0x402, '+'); outb(0x402, '\\n'); puts(\"again\\n\");").run(
        ["--debugcon", "tty,iobase=0x402"]).check()
    assert sorted(result.output.split()) == ["+", "EXIT:0", "again", "serial"]


@pytest.mark.parametrize("status", [0, 1, 77])
def test_exit_port_ends_the_vm(status: int) -> None:
    result = guest(f"outl(0xf4, {status}); for (;;) pause();").run(["--debugcon", "null,exit_port=0xf4"])
    assert result.vmm_status == (ExitCode.GUEST if status else 0)
    assert result.stderr == (f"vmm: the guest ended with status {status}\n" if status else "")


def test_hammering_every_port_of_it_ends_well(tmp_path: Path) -> None:
    guest("for (int i = 0; i < 30000; i++) { outb(0x80, i * 7); outb(0xe9, 'x'); inb(0xe9); }").run(
        ["--debugcon", f"file={tmp_path}/log"]).check()
    assert (tmp_path / "log").read_bytes() == b"x" * 30000


@pytest.mark.parametrize(("port", "seen"), [(0x80, True), (0, False)])
def test_stamp_of_init_is_a_phase_of_the_timing(port: int, seen: bool) -> None:
    result = guest("outb(0x80, 0x42); outb(0x80, 0x42);").run(
        ["--debugcon", f"null,stamp_port={port}", "--timing"]).check()
    assert ("port 0x80" in result.stderr) is seen, result.stderr
