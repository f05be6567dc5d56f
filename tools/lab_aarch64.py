# SPDX-License-Identifier: Apache-2.0
"""The suites with real Linux guests on AArch64: in the lab, or on this machine's KVM if it is an Arm one.

lab_aarch64.py core|packages PYTEST-ARGUMENTS. Where that lab cannot be had it says so in a line; that is no failure.
"""

from __future__ import annotations

import subprocess
import sys

import lab_suites
from vmm_testkit.arch import ARCHES, NEXT_SUITE, SUITE
from vmm_testkit.kernels import KernelError, debian_kernel
from vmm_testkit.lab_session import LabMissing
from vmm_testkit.qemu import lab_qemu
from vmm_testkit.roots import RootError, debian_root

ARCH = ARCHES["aarch64"]


def main() -> int:
    which, *arguments = sys.argv[1:]
    options = ["--lab-arch", ARCH.name, *arguments]
    try:
        if not ARCH.native:
            lab_qemu(ARCH.name)
        cloud, _ = [debian_kernel(flavour) for flavour in ARCH.flavours]
    except (LabMissing, KernelError) as error:
        print(f"lab-aarch64: skipped: {error}")
        return 0
    try:
        debian_kernel(ARCH.flavours[0], suite=NEXT_SUITE)
    except KernelError as error:
        print(f"lab-aarch64: without the tests that need a newer kernel than Debian's {SUITE} has: {error}")
    try:
        debian_root(cloud).build()
    except RootError as error:
        print(f"lab-aarch64: without the tests of a Debian with systemd: {error}")
    if which == "packages":
        return lab_suites.run(options)
    return subprocess.run([sys.executable, "-P", "-m", "pytest", *options, "tests/lab"], cwd=lab_suites.ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
