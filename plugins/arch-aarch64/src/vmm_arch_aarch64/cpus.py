# SPDX-License-Identifier: Apache-2.0
"""vCPUs: their affinities (MPIDR_EL1), topology, and the features that may be asked for."""

from __future__ import annotations

from vmmcore.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SVE, PMU, PAUTH = 1, 2, 4
#: words of ``--cpus features=``: what the guest shall not have although KVM offers it
WITHOUT = {"no-sve": SVE, "no-pmu": PMU, "no-pauth": PAUTH}


def features(words: Iterable[str]) -> int:
    """Bits of the features that a vCPU shall have where KVM has them. Raises UserError."""
    wanted = SVE | PMU | PAUTH
    for word in words:
        if word not in WITHOUT:
            raise UserError("--cpus features=", f"'{word}' is no feature", f"known: {', '.join(WITHOUT)}")
        wanted &= ~WITHOUT[word]
    return wanted


def mpidr(index: int) -> int:
    """The affinity that KVM gives to the vCPU with this number: 16 at level 0, as ICC_SGI1R_EL1 wants."""
    return index & 0xF | (index >> 4 & 0xFF) << 8 | (index >> 12 & 0xFF) << 16


def topology(maximum: int, given: Sequence[int] | None) -> list[int]:
    """[threads per core, cores per cluster, clusters per socket, sockets]; one socket when not given."""
    return list(given) if given else [1, maximum, 1, 1]
