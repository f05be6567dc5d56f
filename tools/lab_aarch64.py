# SPDX-License-Identifier: Apache-2.0
"""The suites with real Linux guests on AArch64: in the lab, or on this machine's KVM if it is an Arm one.

lab_aarch64.py PYTEST-ARGUMENTS. Where that lab cannot be had it says so in a line, and that is no failure.
"""

from __future__ import annotations

import subprocess
import sys

import lab_suites
from vmm_testkit.arch import ARCHES
from vmm_testkit.kernels import KernelError, debian_kernel
from vmm_testkit.lab_session import LabMissing
from vmm_testkit.qemu import lab_qemu
from vmm_testkit.roots import RootError
from vmm_testkit.system import debian_root

ARCH = ARCHES["aarch64"]


def main() -> int:
    options = ["--lab-arch", ARCH.name, *sys.argv[1:]]
    try:
        if not ARCH.native:
            lab_qemu(ARCH.name)
        cloud, _ = [debian_kernel(flavour) for flavour in ARCH.flavours]
    except (LabMissing, KernelError) as error:
        print(f"lab-aarch64: skipped: {error}")
        return 0
    try:
        debian_root(cloud).build()
    except RootError as error:
        print(f"lab-aarch64: without the tests of a Debian with systemd: {error}")
    suite = [sys.executable, "-P", "-m", "pytest", *options, "tests/lab"]
    statuses = [subprocess.run(suite, cwd=lab_suites.ROOT).returncode, lab_suites.run(options)]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
