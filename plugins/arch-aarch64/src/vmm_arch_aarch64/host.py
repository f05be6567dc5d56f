# SPDX-License-Identifier: Apache-2.0
"""What this host's KVM offers to guests, as far as the plan depends on it."""

from __future__ import annotations

import os

DEVICE = "/dev/kvm"
_CHECK_EXTENSION = 0xAE03
_CAP_PMU_V3, _CAP_IPA_SIZE = 126, 165  # KVM_CAP_ARM_PMU_V3, KVM_CAP_ARM_VM_IPA_SIZE
DEFAULT_IPA_BITS = 40  # KVM API §4.2: where KVM_CAP_ARM_VM_IPA_SIZE is missing


def capabilities() -> tuple[int, bool]:
    """(most guest-physical address bits, whether there is a PMU). Without KVM: what every Arm KVM has."""
    import fcntl

    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return DEFAULT_IPA_BITS, False
    try:
        bits = fcntl.ioctl(fd, _CHECK_EXTENSION, _CAP_IPA_SIZE)
        return bits or DEFAULT_IPA_BITS, fcntl.ioctl(fd, _CHECK_EXTENSION, _CAP_PMU_V3) > 0
    except OSError:
        return DEFAULT_IPA_BITS, False
    finally:
        os.close(fd)
