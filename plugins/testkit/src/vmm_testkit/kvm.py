# SPDX-License-Identifier: Apache-2.0
"""Can this machine's /dev/kvm run stock Linux?  One question, asked of vmmcore."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LAB_MEND = "run with --lab (pytest) or under `vmm lab --` (shell)"


@dataclass(frozen=True)
class KvmState:
    """``state`` is "usable", "interpreted" (tiny guests only), "missing", "denied" or another word of vmmcore's."""

    state: str
    reason: str

    @property
    def runs_linux(self) -> bool:
        """A stock kernel boots."""
        return self.state == "usable"

    @property
    def runs_tiny_guests(self) -> bool:
        """Bare-metal guests without exotic instructions run."""
        return self.state in ("usable", "interpreted")


def kvm_state() -> KvmState:
    """What vmmcore finds out about KVM here."""
    if os.environ.get("VMM_IN_LAB") == "1" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return KvmState("usable", "the lab's KVM")
    try:
        from vmmcore.front.check import probe_kvm
    except ImportError:
        return _look()
    status = probe_kvm()
    return KvmState(str(getattr(status.state, "value", status.state)), status.reason)


def _look() -> KvmState:
    """The same from the outside, for a vmmcore that cannot tell."""
    if not Path("/dev/kvm").exists():
        return KvmState("missing", "/dev/kvm does not exist")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return KvmState("denied", "/dev/kvm is not ours to open")
    flags = Path("/proc/cpuinfo").read_text()
    if " vmx" not in flags and " svm" not in flags:
        return KvmState("interpreted", "the CPU shows neither vmx nor svm, so KVM interprets guest kernels")
    return KvmState("usable", "")
