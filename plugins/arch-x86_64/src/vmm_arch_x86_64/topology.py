# SPDX-License-Identifier: Apache-2.0
"""CPU topology and APIC IDs: each level takes a whole number of bits (Intel SDM vol. 3A 9.9)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def topology(maximum: int, given: Sequence[int] | None) -> list[int]:
    """[threads per core, cores per die, dies per package, packages]; one package when not given."""
    return list(given) if given else [1, maximum, 1, 1]


def apic_ids(count: int, levels: Sequence[int]) -> list[int]:
    """APIC ID of each vCPU: the numbers of package, die, core and thread side by side."""
    threads, cores, dies, _packages = levels
    core_shift = (threads - 1).bit_length()
    die_shift = core_shift + (cores - 1).bit_length()
    package_shift = die_shift + (dies - 1).bit_length()
    ids = []
    for n in range(count):
        whole_core, thread = divmod(n, threads)
        whole_die, core = divmod(whole_core, cores)
        package, die = divmod(whole_die, dies)
        ids.append(package << package_shift | die << die_shift | core << core_shift | thread)
    return ids
