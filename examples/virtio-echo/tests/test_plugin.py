# SPDX-License-Identifier: Apache-2.0
"""The front's half."""

from __future__ import annotations

import pytest
from vmmcore.errors import UserError

from vmm_virtio_echo.plugin import EchoOptions, vmm_device_types


@pytest.mark.parametrize(("text", "native"), [("", True), ("native=off", False), ("native=on,packed=on", True)])
def test_options(text: str, native: bool) -> None:
    assert EchoOptions.parse(text, "--plugin virtio-echo").native is native


@pytest.mark.parametrize("text", ["native=maybe", "nativ=on", "packed=2"])
def test_a_bad_option_is_named_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--plugin virtio-echo") as caught:
        EchoOptions.parse(text, "--plugin virtio-echo")
    assert "\n" not in str(caught.value)


def test_device_type() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus) == ("virtio_echo", "pci")
