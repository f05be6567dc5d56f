# SPDX-License-Identifier: Apache-2.0
"""Options of devices with a rate limit, in Cloud Hypervisor's names; their C half uses vmm_bucket.h."""

from __future__ import annotations

from ..errors import UserError
from .options import Option, Options, Size

#: VMM_BUCKET_MAX of vmm_bucket.h
_MAX = 1 << 60


class RateLimitOptions(Options):
    """Inherit a device's options from this, beside :class:`vmmcore.front.virtio.VirtioOptions`.

    A bucket of `size` tokens (bytes or operations) is refilled evenly in `refill_time` ms; what the guest
    takes beyond that waits. A one-time burst comes on top, once.
    """

    bw_size = Option(Size, 0, "bytes that may pass in bw_refill_time (0: no limit)", max=_MAX)
    bw_one_time_burst = Option(Size, 0, "bytes that may pass once, beyond the limit", max=_MAX)
    bw_refill_time = Option(int, 0, "ms in which bw_size bytes may pass", min=0, max=1 << 31, metavar="MS")
    ops_size = Option(int, 0, "operations that may pass in ops_refill_time (0: no limit)", min=0, max=_MAX)
    ops_one_time_burst = Option(int, 0, "operations that may pass once, beyond the limit", min=0, max=_MAX)
    ops_refill_time = Option(int, 0, "ms in which ops_size operations may pass", min=0, max=1 << 31, metavar="MS")

    def validate(self, option: str) -> None:
        super().validate(option)
        for kind in ("bw", "ops"):
            size, burst, refill = (self._values[f"{kind}_{key}"] for key in ("size", "one_time_burst", "refill_time"))
            if size and not refill:
                raise UserError(f"{option} {kind}_refill_time=", f"missing beside {kind}_size=",
                                f"give {kind}_refill_time=MS")
            if not size and (refill or burst):
                given = "refill_time" if refill else "one_time_burst"
                raise UserError(f"{option} {kind}_size=", f"missing beside {kind}_{given}=",
                                f"give {kind}_size=, the amount that may pass in {kind}_refill_time=")


def rate_limit(options: RateLimitOptions) -> dict[str, list[int]]:
    """Plain data for the plan: ``{"bw": [size, one_time_burst, refill_time_ms], "ops": […]}``; size 0: no limit.

    Empty when nothing is limited.
    """
    limits = {
        "bw": [options.bw_size, options.bw_one_time_burst, options.bw_refill_time],
        "ops": [options.ops_size, options.ops_one_time_burst, options.ops_refill_time],
    }
    return limits if any(limit[0] for limit in limits.values()) else {}
