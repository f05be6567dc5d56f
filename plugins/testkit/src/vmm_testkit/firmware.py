# SPDX-License-Identifier: Apache-2.0
"""Guests with ACPI on every architecture: on AArch64 that comes with firmware, Debian's EDK2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmm_testkit.arch import Arch

#: of Debian's package qemu-efi-aarch64
CODE = Path("/usr/share/AAVMF/AAVMF_CODE.fd")
MISSING = f"{CODE} is missing: apt-get install qemu-efi-aarch64"
#: Linux takes the device tree where it has both, unless told
WORD = "acpi=force"


def with_acpi(arch: Arch, **keywords: Any) -> dict[str, Any]:
    """Keywords of ``DebianGuest`` for a guest with ACPI. Where the firmware is missing, the test is skipped."""
    if arch.name == "aarch64":
        if not CODE.exists():
            import pytest

            pytest.skip(MISSING)
        keywords["args"] = [*keywords.get("args", ()), "--firmware", str(CODE)]
        keywords["cmdline"] = f"{WORD} {keywords.get('cmdline', '')}"
        keywords.setdefault("boot_timeout", 300)
    return keywords
