# SPDX-License-Identifier: Apache-2.0
"""What differs between the architectures, in one place: names, consoles, kernels, the machine that QEMU emulates."""

from __future__ import annotations

import platform
from dataclasses import dataclass

SUITE = "bookworm"
#: the release after it, for what its kernels and programs are too old for
NEXT_SUITE = "trixie"


class ArchError(Exception):
    """No such architecture; one line that names those there are."""


@dataclass(frozen=True)
class Arch:
    """An architecture: ``name`` is Linux's for the machine, ``debian`` dpkg's, ``triplet`` that of GCC."""

    name: str
    debian: str
    triplet: str
    #: e_machine of its ELF files
    elf: int
    #: the serial port's device
    console: str
    #: words of a guest's kernel command line: its console, and how it reboots where it has a choice
    guest_words: str
    #: what /proc/interrupts calls a PCI device's line, and its messages
    intx: str
    msi: str
    #: Debian's kernels: the small one for clouds (first, the tests' default), and the one for all machines
    flavours: tuple[str, str]
    #: QEMU's arguments for a lab's host with virtualization, and words for that host's kernel
    machine: tuple[str, ...]
    words: str

    @property
    def native(self) -> bool:
        """Whether this process runs on it."""
        return platform.machine() == self.name


ARCHES = {
    arch.name: arch
    for arch in (
        Arch(
            "x86_64", "amd64", "x86_64-linux-gnu", 62, "ttyS0", "console=ttyS0 reboot=t", "IO-APIC", "PCI-MSI",
            ("cloud-amd64", "amd64"),
            ("-M", "q35,vmport=off", "-cpu", "max,svm=on"),
            "console=ttyS0 quiet reboot=t panic=-1 mitigations=off random.trust_cpu=on",
        ),
        # quiet: in the lab each character on the console costs a guest's exits, and a boot has 15,000.
        # pauth-impdef: QEMU's cheap substitute for the pointer authentication that would cost half of the time.
        Arch(
            "aarch64", "arm64", "aarch64-linux-gnu", 183, "ttyAMA0", "console=ttyAMA0 quiet", "GICv3", "ITS-MSI",
            ("cloud-arm64", "arm64"),
            ("-M", "virt,virtualization=on,gic-version=3", "-cpu", "max,pauth-impdef=on"),
            "console=ttyAMA0 quiet panic=-1 mitigations=off random.trust_cpu=on",
        ),
    )
}  # fmt: skip


def arch_of(name: str = "") -> Arch:
    """The architecture of that name; "" is this process's. Raises ArchError."""
    found = ARCHES.get(name or platform.machine())
    if found is None:
        raise ArchError(f"architecture {name or platform.machine()!r}: use one of {', '.join(ARCHES)}")
    return found
