# SPDX-License-Identifier: Apache-2.0
"""`vmm run` by the Python API, for tests that pause the VM: after SIGUSR1 it is paused again and again.

Then DONE is written: how long it stood, seconds. Beyond the options of `vmm run` that a guest is started with:
--pauses N of --length S each, and one of --longest S.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from vmmcore import DeviceConfig, Vm, VmConfig


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("kernel", "initramfs", "cmdline", "serial", "memory", "cpus"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pauses", type=int, required=True)
    parser.add_argument("--length", type=float, required=True)
    parser.add_argument("--longest", type=float, required=True)
    parser.add_argument("--done", type=Path, required=True)
    args = parser.parse_args()
    config = VmConfig(kernel=args.kernel, initramfs=args.initramfs, cmdline=args.cmdline, memory=args.memory,
                      cpus=args.cpus, devices=[DeviceConfig("serial", args.serial)])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    with Vm(config) as vm:
        vm.boot()

        def pause() -> None:
            signal.sigwait({signal.SIGUSR1})
            stood = 0.0
            for length in [args.length] * args.pauses + [args.longest]:
                vm.pause()
                began = time.monotonic()
                time.sleep(length)
                stood += time.monotonic() - began
                vm.resume()
            args.done.with_suffix(".new").write_text(f"{stood}\n")
            args.done.with_suffix(".new").rename(args.done)

        threading.Thread(target=pause, daemon=True).start()
        return vm.wait()


if __name__ == "__main__":
    sys.exit(main())
