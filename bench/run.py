# SPDX-License-Identifier: Apache-2.0
"""``make bench``: python bench/run.py [--quick] [--only TEXT] [--rounds N] [NAME…]

startup    ratios to a bare interpreter, and the runner's memory, on this machine
api        answers of the REST API beside busy guests, and start-up with and without the package, on this machine
boot       exec to the guest's init, and memory, in the lab by the wall clock; beside QEMU's microvm and q35
icount     the same with the clock that counts instructions: repeatable to 1 %
block      fio in a guest of ours, of microvm and of q35; ratios, and a plot in bench/results/block.svg
net        iperf3 and ping between guest and host, likewise
aarch64    boots and disks beside qemu-system-aarch64 -M virt, in the arm64 lab by the wall clock
initcalls  where the guest's boot time goes, beside microvm (not part of the default)

Results are also written to bench/results/NAME.json. block, net and aarch64 say on standard error what they measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DEFAULT = ("startup", "api", "boot", "icount", "block", "net", "aarch64")
#: those that know --only and --rounds
SELECTIVE = ("block", "net", "aarch64")


def startup(quick: bool) -> tuple[str, dict[str, Any]]:
    import startup as module

    return module.run(quick)


def api(quick: bool) -> tuple[str, dict[str, Any]]:
    import api as module

    return module.run(quick)


def boot(quick: bool) -> tuple[str, dict[str, Any]]:
    import boot as module

    return module.wall_clock(quick)


def icount(quick: bool) -> tuple[str, dict[str, Any]]:
    import boot as module

    return module.counted(quick)


def block(quick: bool, only: str, rounds: int) -> tuple[str, dict[str, Any]]:
    import block as module

    return module.run(quick, only, rounds)


def net(quick: bool, only: str, rounds: int) -> tuple[str, dict[str, Any]]:
    import net as module

    return module.run(quick, only, rounds)


def aarch64(quick: bool, only: str, rounds: int) -> tuple[str, dict[str, Any]]:
    import aarch64 as module

    return module.run(quick, only, rounds)


def initcalls(quick: bool) -> tuple[str, dict[str, Any]]:
    import initcalls as module

    return module.run(quick)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one run of each: does it work at all?")
    parser.add_argument("--no-save", action="store_true", help="write no bench/results/NAME.json")
    only = "block, net: the rows with TEXT in their names; aarch64: boot or disk"
    parser.add_argument("--only", metavar="TEXT", default="", help=only)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="so many by the wall clock (5)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*DEFAULT, "initcalls")))
    given = parser.parse_args()
    kinds: dict[str, Any] = {
        "startup": startup, "api": api, "boot": boot, "icount": icount, "block": block, "net": net, "aarch64": aarch64,
        "initcalls": initcalls,
    }  # fmt: skip
    for name in given.names:
        if name not in kinds:
            parser.error(f"no benchmark is called {name}; there are {', '.join(kinds)}")
    failed = 0
    for name in given.names or DEFAULT:
        began = time.monotonic()
        try:
            more = {"only": given.only, "rounds": given.rounds} if name in SELECTIVE else {}
            text, data = kinds[name](given.quick, **more)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}\n", file=sys.stderr, flush=True)
            failed = 1
            continue
        print(f"{text}\n  ({time.monotonic() - began:.0f} s)\n", flush=True)
        if not given.no_save and not given.quick:
            save(name, data)
    return failed


def save(name: str, data: dict[str, Any]) -> None:
    (HERE / "results").mkdir(exist_ok=True)
    host = {"machine": platform.machine(), "kernel": platform.release(), "python": platform.python_version()}
    text = json.dumps({"name": name, "host": host, "results": rounded(data)}, indent=1, sort_keys=True)
    (HERE / "results" / f"{name}.json").write_text(text + "\n")


def rounded(value: Any) -> Any:
    """Three decimals are plenty."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
