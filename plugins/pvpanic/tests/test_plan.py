# SPDX-License-Identifier: Apache-2.0
"""`--pvpanic`: what it accepts."""

from __future__ import annotations

from typing import Any

import pytest
from vmmcore.errors import UserError

from vmm_pvpanic.plugin import PvpanicOptions, plan, vmm_device_types


@pytest.mark.parametrize(("text", "there"), [("", True), ("on", True), ("off", False), ("enabled=off", False)])
def test_switch(text: str, there: bool) -> None:
    context: Any = None
    assert plan(context, PvpanicOptions.parse(text, "--pvpanic"), {}) is there


@pytest.mark.parametrize("text", ["maybe", "on,off", "path=/x"])
def test_bad_option_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(UserError, match="--pvpanic") as caught:
        PvpanicOptions.parse(text, "--pvpanic")
    assert "\n" not in str(caught.value)


def test_one_pci_device_type() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.many) == ("pvpanic", "pci", False)
