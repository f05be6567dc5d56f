# SPDX-License-Identifier: Apache-2.0
"""The plugin's options: ``--plugin boot-linux,protocol=…,extract=…``."""

from __future__ import annotations

from vmmcore.front.options import Option, Options

#: the plugin's name, and where its options wait in ``Layout.extra``
KEY = "boot-linux"


class BootOptions(Options):
    """How a kernel is started."""

    protocol = Option(str, "auto", "x86-64: how an ELF kernel is entered: linux64 (64-bit entry, zero page) or pvh; "
                      "auto: linux64 for a bzImage, else pvh where the kernel has its note",
                      choices=("auto", "linux64", "pvh"))
    extract = Option(str, "auto", "decompress the kernel on the host, once, into ~/.cache/vmm/boot; "
                     "off: in the guest (x86-64; needed for KASLR there); auto: on where possible",
                     choices=("auto", "on", "off"))
