# SPDX-License-Identifier: Apache-2.0
"""The C interface for plugins only grows: what a released minor version had is still there, in its place."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import vmmcore

#: minor version -> hash of all members of struct vmm_api up to it. A line is added for a new minor, none changes.
KNOWN = {
    0: "e43efc870ee4db4a",
    1: "f8ba20244281c41c",
    2: "4455ffa3a94bb48f",
    3: "d4d7efabfd383b49",
    4: "e9ef41bd4fbf7aa3",
}


def header() -> str:
    return Path(vmmcore.get_include(), "vmmcore.h").read_text()


def members() -> dict[int, list[str]]:
    """Declarations in struct vmm_api, by the minor version that brought them, without comments and spacing."""
    body = re.search(r"struct vmm_api \{(.*?)\n\};", header(), re.S)
    assert body is not None
    found: dict[int, list[str]] = {}
    for part in re.split(r"/\* --- since 1\.", body[1]):
        minor = re.match(r"(\d+) ---", part)
        code = re.sub(r"/\*.*?\*/", "", part if minor is None else "/* " + part, flags=re.S)
        declarations = [" ".join(line.split()) for line in code.split(";") if line.strip()]
        found.setdefault(0 if minor is None else int(minor[1]), []).extend(declarations)
    return found


def test_no_released_member_has_changed() -> None:
    digest = hashlib.sha256()
    hashes = {}
    for minor, declarations in sorted(members().items()):
        digest.update("\n".join([*declarations, ""]).encode())
        hashes[minor] = digest.hexdigest()[:16]
    assert hashes == KNOWN


def test_the_version_is_that_of_the_newest_member() -> None:
    minor = re.search(r"#define VMM_API_MINOR (\d+)u", header())
    assert minor is not None
    assert int(minor[1]) == max(members()) == max(KNOWN)
