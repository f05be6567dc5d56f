# SPDX-License-Identifier: Apache-2.0
"""The front's half of the entropy device: its options, and what the plan says about it."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Path
from vmmcore.front.ratelimit import RateLimitOptions, rate_limit
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)


class RngOptions(VirtioOptions, RateLimitOptions):
    """``--rng``, ``--rng src=/dev/hwrng`` or ``--rng bw_size=64K,bw_refill_time=1000``."""

    positional = "src"
    src = Option(Path, "/dev/urandom", "where the random bytes come from: a device, a FIFO or a file")


def plan(context: PlanContext, options: RngOptions, device: dict[str, Any]) -> None:
    """Open the source. Raises UserError for one that cannot be read, or that is an empty file."""
    source = context.open_file(options.src, "--rng src=", "r")
    fd = context.fd(source)
    if stat.S_ISREG(os.fstat(fd).st_mode) and not os.pread(fd, 1, 0):
        raise UserError("--rng src=", f"{options.src}: the file is empty", "name a source of random bytes")
    device["files"] = {"source": source}
    device["options"] = {"packed": options.packed, "iommu": options.iommu, "limits": rate_limit(options)}


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("rng", "vmm_virtio_rng.device:Rng", options=RngOptions, plan=plan, many=False,
                       doc="entropy source (virtio-rng)")]
