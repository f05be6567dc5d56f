# SPDX-License-Identifier: Apache-2.0
"""Planning devices as `vmm run` does, without a machine around them."""

from __future__ import annotations

import gc
import os
from types import SimpleNamespace
from typing import Any

from vmmcore.front.config import DeviceConfig, VmConfig
from vmmcore.front.context import Layout, PlanContext
from vmmcore.front.devices import plan_device
from vmmcore.front.plugins import Plugins


class Front:
    """Plans devices as `vmm run` does."""

    def __init__(self, *, dry_run: bool = False) -> None:
        self.fds: list[int] = []
        self.told: list[str] = []
        self.plugins = Plugins(())
        self.context: PlanContext | None = PlanContext(
            VmConfig(id="t"), Layout(ram=[(0, 1 << 20)], gsis=[4]), {"files": [], "devices": []},
            SimpleNamespace(), self.plugins, self.fds, dry_run=dry_run, tell=self.told.append)

    def add(self, flag: str, text: str) -> dict[str, Any]:
        assert self.context is not None
        plan_device(self.context, self.plugins, DeviceConfig(flag, text))
        return self.context.plan["devices"][-1] if self.context.plan["devices"] else {}

    @property
    def cmdline(self) -> str:
        assert self.context is not None
        return self.context.cmdline

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.context = None
        gc.collect()
