# SPDX-License-Identifier: Apache-2.0
"""`vmm run` by the Python API, for tests that drive the VM from outside: SIGUSR1 presses the power button."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from vmmcore import DeviceConfig, Vm, VmConfig


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("kernel", "initramfs", "cmdline", "serial", "memory", "cpus"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--firmware")
    parser.add_argument("--disk", action="append", default=[])
    args = parser.parse_args()
    devices = [DeviceConfig("serial", args.serial), *(DeviceConfig("disk", disk) for disk in args.disk)]
    config = VmConfig(kernel=args.kernel, initramfs=args.initramfs, cmdline=args.cmdline, firmware=args.firmware,
                      memory=args.memory, cpus=args.cpus, devices=devices)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    with Vm(config) as vm:
        vm.boot()

        def press() -> None:
            while True:
                signal.sigwait({signal.SIGUSR1})
                vm.power_button()

        threading.Thread(target=press, daemon=True).start()
        return vm.wait()


if __name__ == "__main__":
    sys.exit(main())
