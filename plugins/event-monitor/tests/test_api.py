# SPDX-License-Identifier: Apache-2.0
"""The stream of a `vmm run --api-socket` that waits: there before the first VM, and for all of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from eventfile import FOREVER, VMM, names_in
from vmmcore import VmmError

client = pytest.importorskip("vmm_api_rest.client", reason="needs pip install vmm-api-rest")

pytestmark = pytest.mark.needs_kvm


def answers(api: Any) -> bool:
    try:
        return bool(api.call("GET", "vmm.ping"))
    except VmmError:
        return False


def test_two_vms_one_after_the_other(tmp_path: Path) -> None:
    path, sock = tmp_path / "events", tmp_path / "api.sock"
    process = subprocess.Popen([VMM, "run", "--api-socket", str(sock), "--event-monitor", f"path={path}"],
                               stdin=subprocess.DEVNULL)
    try:
        api = client.Client(sock)
        while not answers(api):
            assert process.poll() is None
        assert names_in(path) == ["vmm starting"]
        config = {"payload": {"kernel": str(FOREVER.build())}, "memory": {"size": 32 << 20},
                  "serial": {"mode": "Null"}, "console": {"mode": "Off"}}
        for _ in range(2):
            api.call("PUT", "vm.create", config)
            api.call("PUT", "vm.boot")
            api.call("PUT", "vm.pause")
            api.call("PUT", "vm.resume")
            api.call("PUT", "vm.shutdown")
            assert names_in(path)[-1] == "vm shutdown"
            api.call("PUT", "vm.delete")
            assert names_in(path)[-1] == "vm deleted"
        api.call("PUT", "vmm.shutdown")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    life = ["vm booting", "vm booted", "vm pausing", "vm paused", "vm resuming", "vm resumed", "vm ending",
            "vm shutdown", "vm deleted"]
    assert names_in(path) == ["vmm starting", *life, *life, "vmm shutdown"]
