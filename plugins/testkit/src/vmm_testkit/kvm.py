# SPDX-License-Identifier: Apache-2.0
"""Can this machine's /dev/kvm run stock Linux?  One question, asked of vmmcore."""

from __future__ import annotations

from dataclasses import dataclass

LAB_MEND = "run with --lab (pytest) or under `vmm lab --` (shell)"


@dataclass(frozen=True)
class KvmState:
    """``state`` is a word of vmmcore's ``KvmStatus``: "usable", "interpreted" (tiny guests only), "missing" …"""

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
    from vmmcore.front.check import probe_kvm

    status = probe_kvm()
    return KvmState(status.state, status.reason)
