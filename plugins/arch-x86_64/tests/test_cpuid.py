# SPDX-License-Identifier: Apache-2.0
"""The CPUID table: made-up host tables in, what a guest of some topology sees out. No KVM."""

from __future__ import annotations

import pytest

from vmm_arch_x86_64.topology import apic_ids, topology

native = pytest.importorskip("vmm_arch_x86_64._native", reason="build the extension: pip install -e .")
ffi, lib = native.ffi, native.lib

Table = dict[tuple[int, int], tuple[int, int, int, int]]
AMD = (0x68747541, 0x444D4163, 0x69746E65)  # "AuthenticAMD" as ebx, ecx, edx
INTEL = (0x756E6547, 0x6C65746E, 0x49656E69)
NESTED, DEADLINE = 1, 2


def host(vendor: tuple[int, int, int]) -> Table:
    ebx, ecx, edx = vendor
    table: Table = {
        (0, 0): (0x10, ebx, ecx, edx),
        (1, 0): (0x800F12, 0x07100800, 0x7EFA3223 | 1 << 5, 0x178BFBFF),
        (5, 0): (0x40, 0x40, 3, 0x11),
        (7, 0): (0, 0x219C91A9 | 1 << 2, 1 << 30, 0),
        (0x40000000, 0): (0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D),
        (0x40000001, 0): (0x1007EFB, 0, 0, 0),
        (0x80000000, 0): (0x80000008, 0, 0, 0),
        (0x80000001, 0): (0, 0, 0x4003F7 | 1 << 2, 0x2FD3FBFF),
        (0x80000008, 0): (0x3030 | 48 << 16, 0, 0x7007, 0),
        (0x8000000A, 0): (1, 8, 0, 0),
        (0x8000001F, 0): (0xF, 0, 0, 0),
        (0x12, 0): (1, 0, 0, 0),
    }
    caches = {0: 1 << 5 | 1, 1: 1 << 5 | 2, 2: 2 << 5 | 3, 3: 3 << 5 | 3, 4: 0}
    for index, eax in caches.items():
        table[0x8000001D if vendor is AMD else 4, index] = (eax | 0x1C000 | 0x100, 0x1C0003F, 0x3F, 0)
    return table


def edit(table: Table, room: int = 256, **cpu: int) -> Table:
    indexed = {4, 0xB, 0xD, 0x1F, 0x8000001D}
    entries = ffi.new("uint32_t[]", 10 * room)
    for n, ((leaf, index), values) in enumerate(table.items()):
        entries[10 * n:10 * n + 7] = [leaf, index, int(leaf in indexed), *values]
    given = {"threads": 1, "cores": 1, "dies": 1, "packages": 1, "phys_bits": 46, **cpu}
    count = lib.arch_cpuid_edit(entries, len(table), room, ffi.new("struct arch_cpu *", given))
    if count < 0:
        raise OSError(-count, "arch_cpuid_edit")
    rows = [entries[10 * n:10 * n + 7] for n in range(count)]
    result = {(r[0], r[1]): (r[3], r[4], r[5], r[6]) for r in rows}
    assert len(result) == count  # no leaf twice
    return result


TOPOLOGIES = [[1, 1, 1, 1], [1, 4, 1, 1], [2, 2, 1, 1], [2, 3, 1, 2], [1, 3, 2, 2], [2, 4, 2, 4],
              [1, 1, 1, 4]]


@pytest.mark.parametrize("vendor", [AMD, INTEL], ids=["amd", "intel"])
@pytest.mark.parametrize("levels", TOPOLOGIES, ids=str)
def test_topology_as_the_guest_decodes_it(levels: list[int], vendor: tuple[int, int, int]) -> None:
    threads, cores, dies, packages = levels
    count = threads * cores * dies * packages
    seen = set()
    for apic_id in apic_ids(count, levels):
        t = edit(host(vendor), apic_id=apic_id, threads=threads, cores=cores, dies=dies, packages=packages)
        assert t[1, 0][1] >> 24 == apic_id
        leaf = 0x1F if dies > 1 else 0xB
        kinds, shifts, counts = [], [], []
        for index in range(8):
            eax, ebx, ecx, edx = t[leaf, index]
            if not ecx >> 8:
                break
            assert edx == apic_id and ecx & 0xFF == index
            kinds.append(ecx >> 8)
            shifts.append(eax)
            counts.append(ebx)
        assert kinds == ([1, 2, 5] if dies > 1 else [1, 2])
        per_die = threads * cores
        assert counts == ([threads, per_die, per_die * dies] if dies > 1 else [threads, per_die])
        smt, package = shifts[0], shifts[-1]
        thread = apic_id & ((1 << smt) - 1)
        core = (apic_id & ((1 << package) - 1)) >> smt
        seen.add((apic_id >> package, core, thread))
        assert bool(t[1, 0][3] >> 28 & 1) == (per_die * dies > 1)
        if vendor is AMD:
            eax, ebx, ecx, _ = t[0x8000001E, 0]
            assert (eax, (ebx >> 8) + 1, ebx & 0xFF) == (apic_id, threads, core)
            assert (ecx >> 8 & 7) + 1 == dies
            nc = t[0x80000008, 0][2]
            assert (nc & 0xFF) + 1 == per_die * dies and nc >> 12 & 0xF == package
            assert t[0x80000001, 0][2] >> 22 & 1 and t[0x80000000, 0][0] >= 0x8000001E
    assert len(seen) == count
    assert len({p for p, _, _ in seen}) == packages
    assert len({(p, c) for p, c, _ in seen}) == count // threads


@pytest.mark.parametrize(("vendor", "leaf"), [(AMD, 0x8000001D), (INTEL, 4)], ids=["amd", "intel"])
def test_caches(vendor: tuple[int, int, int], leaf: int) -> None:
    t = edit(host(vendor), threads=2, cores=4, dies=2, packages=1)
    sharing = [(t[leaf, n][0] >> 14 & 0xFFF) + 1 for n in range(4)]
    assert sharing == [2, 2, 2, 8]  # a core's threads; the die's for level 3
    if leaf == 4:
        assert (t[4, 0][0] >> 26) + 1 == 8  # cores in the package


def test_features() -> None:
    t = edit(host(AMD), flags=DEADLINE)
    ecx = t[1, 0][2]
    assert ecx >> 31 and ecx >> 24 & 1 and not ecx >> 5 & 1 and not ecx >> 3 & 1
    assert t[5, 0] == (0, 0, 0, 0)  # no MONITOR, so no MONITOR leaf
    assert not t[0x80000001, 0][2] >> 2 & 1
    assert (0x8000000A, 0) not in t and (0x8000001F, 0) not in t and (0x12, 0) not in t
    assert not t[7, 0][1] >> 2 & 1 and not t[7, 0][2] >> 30 & 1
    assert not edit(host(AMD))[1, 0][2] >> 24 & 1


def test_nested() -> None:
    assert edit(host(AMD), flags=NESTED)[0x80000001, 0][2] >> 2 & 1
    assert (0x8000000A, 0) in edit(host(AMD), flags=NESTED)
    assert edit(host(INTEL), flags=NESTED)[1, 0][2] >> 5 & 1


def test_physical_address_bits() -> None:
    assert edit(host(AMD), phys_bits=46)[0x80000008, 0][0] == 0x302E | 46 << 16
    assert edit(host(AMD), phys_bits=52)[0x80000008, 0][0] == 0x3030 | 48 << 16  # never more than the host


@pytest.mark.parametrize("khz", [2095078, 2500000, 3792967, 1996249, 2194843, 800000])
def test_frequencies(khz: int) -> None:
    t = edit(host(INTEL), tsc_khz=khz)
    assert t[0x40000000, 0][0] == 0x40000010 and t[0x40000010, 0][:2] == (khz, 1000000)
    den, num, crystal, _ = t[0x15, 0]
    assert crystal == 10**9 and num * 10**6 < 1 << 32  # as Linux computes it, in 32 bits
    assert abs(10**6 * num / den - khz) / khz < 1e-6
    assert t[0x16, 0][0] == round(khz / 1000) and t[0, 0][0] >= 0x16
    assert (0x15, 0) not in edit(host(AMD), tsc_khz=khz)


def test_unknown_frequency_claims_nothing() -> None:
    t = edit(host(INTEL))
    assert (0x40000010, 0) not in t and t[0x40000000, 0][0] == 0x40000001 and (0x15, 0) not in t


def test_refusals() -> None:
    with pytest.raises(OSError, match="Errno 7"):  # E2BIG
        edit(host(AMD), room=len(host(AMD)))
    for bad in ({"threads": 0}, {"cores": 1 << 16}, {"dies": 0}, {"packages": 0}):
        with pytest.raises(OSError, match="arch_cpuid_edit"):
            edit(host(AMD), **bad)


def test_default_topology_is_one_package() -> None:
    assert topology(6, None) == [1, 6, 1, 1]
    assert apic_ids(6, topology(6, None)) == list(range(6))
    assert apic_ids(12, [2, 3, 1, 2]) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
