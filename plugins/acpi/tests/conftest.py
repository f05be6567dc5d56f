# SPDX-License-Identifier: Apache-2.0
"""Fixtures around `iasl`, the ACPICA compiler, which is the oracle of these tests."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vmm_acpi.machine import Blob


class Iasl:
    """Runs iasl in a folder of its own and returns what it made and said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["iasl", *arguments], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout

    def compile(self, text: str, *options: str) -> tuple[bytes, list[str]]:
        """AML file and messages (errors, warnings, remarks) of an ASL text."""
        (self.folder / "in.asl").write_text(text)
        (self.folder / "out.aml").unlink(missing_ok=True)
        said = self._run("-p", "out", *options, "in.asl")
        assert (self.folder / "out.aml").exists(), said
        return (self.folder / "out.aml").read_bytes(), messages(said)

    def body(self, statements: str) -> bytes:
        """AML of ASL statements at the root of a DSDT: paths and expressions as written, no header."""
        text = f'DefinitionBlock ("", "DSDT", 2, "VMM", "VMMTABLE", 1) {{\n{statements}\n}}\n'
        table, said = self.compile(text, "-on", "-of")
        assert not [line for line in said if "Error" in line], said
        return table[36:]

    def disassemble(self, table: bytes) -> str:
        """The source text that iasl reads out of a table."""
        (self.folder / "table.aml").write_bytes(table)
        (self.folder / "table.dsl").unlink(missing_ok=True)
        said = self._run("-d", "table.aml")
        assert (self.folder / "table.dsl").exists(), said
        assert not messages(said), said
        return (self.folder / "table.dsl").read_text()

    def execute(self, tables: list[bytes], commands: list[str]) -> list[str]:
        """Load tables in ACPICA's simulator, call methods in turn, and return what each call printed."""
        if not shutil.which("acpiexec"):
            pytest.skip("acpiexec is missing: apt-get install acpica-tools")
        names = []
        for number, table in enumerate(tables):
            (self.folder / f"t{number}.aml").write_bytes(table)
            names.append(f"t{number}.aml")
        line = ";".join(f"execute {command}" for command in commands)
        done = subprocess.run(
            ["acpiexec", "-b", line, *names],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        said = done.stdout
        assert not re.search("ACPI (Error|Warning|Exception)|Firmware (Bug|Error|Warning)", said), said
        answers = re.split(r"^Evaluating ", said, flags=re.M)[1:]
        assert len(answers) == len(commands), said
        return answers

    def round_trip(self, table: bytes) -> tuple[bytes, list[str]]:
        """Disassemble and compile again: the new table and the compiler's messages."""
        return self.compile(self.disassemble(table), "-on", "-of")


def messages(said: str) -> list[str]:
    """The lines in which iasl complains: `Warning 3073 - …`, `Remark 2098 - …`, checksum notes."""
    return re.findall(r"^.*(?:Error|Warning|Remark)\s+\d+.*$|^.*[Ii]ncorrect checksum.*$", said, re.M)


@pytest.fixture(scope="session")
def iasl(tmp_path_factory: pytest.TempPathFactory) -> Iasl:
    if not shutil.which("iasl"):
        pytest.skip("iasl is missing: apt-get install acpica-tools")
    return Iasl(tmp_path_factory.mktemp("iasl"))


@pytest.fixture
def field_of(iasl: Iasl) -> Callable[[bytes, str], list[str]]:
    """Values that iasl shows for a named field of a data table."""

    def find(table: bytes, label: str) -> list[str]:
        line = rf"^(?:\[.*?\])? +{re.escape(label)} : (.*?) *(?:\[.*)?$"
        return re.findall(line, iasl.disassemble(table), re.M)

    return find


def table(blob: Blob, signature: str) -> bytes:
    """A table found by the RSDP, the XSDT and the FADT, as a guest does, with its sum checked."""

    def at(address: int) -> bytes:
        start = address - blob.address
        (size,) = struct.unpack_from("<I", blob.data, start + 4)
        found = blob.data[start : start + size]
        assert len(found) == size and sum(found) % 256 == 0
        return found

    rsdp = blob.data[:36]
    assert rsdp[:8] == b"RSD PTR " and sum(rsdp[:20]) % 256 == 0 and sum(rsdp) % 256 == 0
    xsdt = at(struct.unpack_from("<Q", rsdp, 24)[0])
    found = {}
    for (address,) in struct.iter_unpack("<Q", xsdt[36:]):
        found[at(address)[:4].decode()] = at(address)
    found["DSDT"] = at(struct.unpack_from("<Q", found["FACP"], 140)[0])
    return found[signature]


def assert_iasl_makes_the_same(iasl: Iasl, original: bytes) -> None:
    """The table goes through iasl's disassembler and compiler without a word and unchanged."""
    again, said = iasl.round_trip(original)
    signature = original[:4]
    assert said == [], signature
    assert len(again) == len(original)
    for place in range(36, len(original)):  # the header gets the compiler's own id
        if again[place] != original[place]:
            # iasl leaves the sum in the end tag of a resource template at 0,
            # and knows the identifier of an IORT node since 2021 only.
            tag = signature == b"DSDT" and again[place - 1 : place + 1] == b"\x79\x00"
            assert tag or (signature == b"IORT" and again[place] == 0), hex(place)
