# SPDX-License-Identifier: Apache-2.0
"""Options of devices that talk to a byte stream of the host: serial ports, consoles, debug ports.

    --serial tty | null | off | pty | file=PATH

The device half hands the fds to the core's ``chardev_open`` (vmmcore.h).
"""

from __future__ import annotations

from ..errors import UserError
from .options import Option, Options, Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .planning import PlanContext


class StreamOptions(Options):
    """Where the bytes go: ``tty``, ``null``, ``off``, ``pty`` or ``file=PATH``."""

    positional = "mode"
    mode = Option(str, None, "tty: standard input and output; pty: a new pseudo-terminal; null: nowhere; "
                  "off: no such device", choices=("tty", "null", "off", "pty"))
    file = Option(Path, None, "write what the guest sends to this file; it gets no input")

    def validate(self, option: str) -> None:
        if self.mode is not None and self.file is not None:
            raise UserError(f"{option} file=", f"cannot be combined with {self.mode}", "keep one of them")
        if self.mode is None and self.file is None:
            raise UserError(option, "it is not said where the bytes go", "use tty, pty, null or file=PATH")


def open_stream(context: PlanContext, options: StreamOptions, flag: str, *, input: bool = True) -> dict[str, int]:
    """Open the host's side: the plan's ``files`` of the device, ``in`` (unless `input` is false) and ``out``.

    Raises UserError naming `flag` (``--serial``).
    """
    files: dict[str, int] = {}
    if options.mode == "tty":
        files = {"in": context.open_stdio(0), "out": context.open_stdio(1)} if input else {"out": context.open_stdio(1)}
    elif options.mode == "pty":
        pty = context.open_pty(f"{flag} pty")
        files = {"in": pty, "out": pty} if input else {"out": pty}
    elif options.file is not None:
        files = {"out": context.open_file(options.file, f"{flag} file=", "w")}
    return files
