# SPDX-License-Identifier: Apache-2.0
"""The port in a whole machine: bare-metal guests that send, receive and wait for interrupts."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vmm_testkit.baremetal import BareMetal
from vmm_testkit.guest import default_vmm

pytestmark = pytest.mark.needs_kvm

COM1 = """
#include "guest.h"
enum { DATA = 0x3f8, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR, VECTOR = 0x50 };
static inline void take_interrupts(void (*fn)(struct trap_frame *)) {
  set_irq_handler(VECTOR, fn);
  mmio_write32(0xfec00000, 0x11 + 2 * 4); /* redirection entry of pin 4: to this CPU, edge */
  mmio_write32(0xfec00010, lapic_id() << 24);
  mmio_write32(0xfec00000, 0x10 + 2 * 4);
  mmio_write32(0xfec00010, VECTOR);
  outb(FCR, 0x01);
}
"""


@contextmanager
def running(source: str, *options: str, serial: str = "tty") -> Iterator[subprocess.Popen[bytes]]:
    kernel = BareMetal(COM1 + source).build()
    command = [*default_vmm(), "--kernel", str(kernel), "--memory", "64M", "--serial", serial, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_registers_as_a_driver_probes_them() -> None:
    BareMetal(COM1 + """
    int main(struct hvm_start_info *si) {
      (void)si;
      outb(IER, 0x0f);
      CHECK(inb(IER) == 0x0f, "IER is %x", inb(IER));
      outb(IER, 0);
      outb(FCR, 0x01);
      CHECK((inb(IIR) & 0xcf) == 0xc1, "no 16550A FIFOs");
      outb(MCR, 0x1a);
      CHECK((inb(MSR) & 0xf0) == 0x90, "loopback");
      outb(DATA, 0x5a);
      u8 looped = inb(DATA);
      outb(MCR, 0);
      CHECK(looped == 0x5a, "looped %x", looped);
      inb(MSR);
      outb(SCR, 0xa5);
      CHECK(inl(MCR) == (0xa5b06000u | inb(MCR)), "a wide read is its bytes: %x", inl(MCR));
      return 0;
    }""").run().check()


ECHO = """
static volatile u32 done;
static void handler(struct trap_frame *frame) {
  (void)frame;
  while (!(inb(IIR) & 1))
    while (inb(LSR) & 1) {
      u8 byte = inb(DATA);
      if (byte == '!') done = 1;
      while (!(inb(LSR) & 0x20)) pause();
      outb(DATA, byte);
    }
}
int main(struct hvm_start_info *si) {
  (void)si;
  take_interrupts(handler);
  outb(IER, 0x01);
  puts("READY\\n");
  while (!done) irq_wait();
  return 0;
}"""


def test_input_arrives_whole_and_in_order() -> None:
    data = b"".join(b"%06d\n" % number for number in range(3000)) + b"!"
    with running(ECHO) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        process.stdin.write(data)
        process.stdin.close()
        output = process.stdout.read()
        assert process.wait(60) == 0
    assert output.replace(b"EXIT:0\n", b"").rstrip(b"\n") == data


def test_end_of_input_does_not_end_the_guest() -> None:
    """BareMetal.run gives no standard input at all."""
    result = BareMetal(COM1 + """
    int main(struct hvm_start_info *si) {
      (void)si;
      for (int i = 0; i < 20000; i++) inb(LSR);
      puts("still here\\n");
      return 0;
    }""").run().check()
    assert "still here" in result.output


SENDER = """
enum { TOTAL = 180000 };
static volatile u32 sent;
static u32 told;
static void handler(struct trap_frame *frame) {
  (void)frame;
  while (!(inb(IIR) & 1)) {
    if (sent == TOTAL) outb(IER, 0);
    for (int i = 0; i < 16 && sent < TOTAL; i++, sent++) outb(DATA, sent % 64 == 63 ? '\\n' : 'a' + sent % 26);
    if (!told && !(inb(LSR) & 0x20)) {
      told = 1;
      outb(0xe9, 'B');
    }
  }
}
int main(struct hvm_start_info *si) {
  (void)si;
  take_interrupts(handler);
  outb(IER, 0x02);
  while (sent < TOTAL) irq_wait();
  while (!(inb(LSR) & 0x40)) pause();
  return 0;
}"""


def test_slow_reader_holds_the_sender_back_and_loses_nothing(tmp_path: Path) -> None:
    """The guest sends by interrupts and tells on the debug console when it is held back: its CPU runs on."""
    pytest.importorskip("vmm_debugcon", reason="vmm-debugcon is missing; pip install vmm-debugcon")
    os.mkfifo(tmp_path / "told")
    told = os.open(tmp_path / "told", os.O_RDWR)
    with running(SENDER, "--debugcon", f"file={tmp_path}/told") as process:
        assert process.stdout is not None
        assert os.read(told, 1) == b"B"
        output = process.stdout.read()
        assert process.wait(60) == 0
    os.close(told)
    expected = bytes(10 if n % 64 == 63 else 97 + n % 26 for n in range(180000))
    assert output[:180000] == expected


def test_file_gets_the_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running("int main(struct hvm_start_info *si) { (void)si; puts(\"to the file\\n\"); return 0; }",
                 serial=f"file={log}") as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"" and process.wait(60) == 0
    assert log.read_bytes() == b"to the file\n\nEXIT:0\n"


def read_until(client: socket.socket, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        part = client.recv(4096)
        assert part, seen
        seen += part
    return seen


def test_client_of_a_socket_talks_with_the_guest(tmp_path: Path) -> None:
    with running(ECHO, serial=f"socket={tmp_path}/s") as process:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        while True:
            try:
                client.connect(f"{tmp_path}/s")
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        read_until(client, b"READY\n")
        client.sendall(b"hello!")
        read_until(client, b"hello!")
        assert process.wait(60) == 0
        client.close()
    assert list(tmp_path.iterdir()) == [], "the socket goes with the VM"


@pytest.mark.parametrize("serial", ["null", "off"])
def test_without_a_listener_the_guest_runs_the_same(serial: str) -> None:
    with running("int main(struct hvm_start_info *si) { (void)si; puts(\"unheard\\n\"); return 0; }",
                 serial=serial) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"" and process.wait(60) == 0
