# SPDX-License-Identifier: Apache-2.0
"""What ``vmm run --api-socket`` imports: it serves the API until the VM or the user ends it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmmcore.front.config import VmConfig
    from vmmcore.front.plugins import Plugins

API = (1, 0)


def serve(where: str, config: VmConfig, plugins: Plugins) -> int:
    """Serve the API at `where`; boot what `config` describes, unless it has nothing to boot. The exit status.

    Raises VmmError.
    """
    from .main import run

    return run(where, config, plugins)
