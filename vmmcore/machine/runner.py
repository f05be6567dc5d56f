# SPDX-License-Identifier: Apache-2.0
"""The runner's main: build the machine, run it, answer the front, end with a documented status."""

from __future__ import annotations

import sys
import time

from vmmcore.errors import ExitCode, VmmError

from .assembly import Machine
from .native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .control import Control

# VMM_EVENT_* of vmmcore.h
SHUTDOWN, RESET, PANIC, TRIPLE, ERROR, EXIT, QUIT, STAMP, DEVICE, HOTPLUG = range(1, 11)
SIGUSR1 = 10
NAMES = {SHUTDOWN: "shutdown", RESET: "reset", PANIC: "panic", TRIPLE: "triple-fault", ERROR: "error",
         EXIT: "guest-exit", QUIT: "quit"}


def say(line: str) -> None:
    """One line on stderr; whoever reads it may be gone."""
    try:
        sys.stderr.write(f"vmm: {line}\n")
    except OSError:
        pass


class Runner:
    """One VM's process. `outcome` is the exit status once the VM has ended for good."""

    def __init__(self, plan: dict[str, Any], started: int) -> None:
        self.plan = plan
        self.outcome: int | None = None
        self.reboot = False
        self.timing: Any = None
        self.control: Control | None = None
        self.machine: Machine | None = None
        self.loaded = time.time()  # the devices' code is of no later time
        if plan.get("timing"):
            from .timing import Timing

            self.timing = Timing(plan, started)
            self.timing.mark("imports")
        self.extend_path(plan.get("user_path") or [])

    def run(self) -> int:
        """Boot, and boot again, until the VM has ended. The exit status."""
        plan = self.plan
        self.signal_fd = lib.vmm_signals()
        if plan.get("parent_death"):
            lib.vmm_parent_death(15)
        if plan.get("control", -1) >= 0:
            from .control import Control

            self.control = Control(self, plan["control"])
        first = True
        while first or self.reboot:
            self.reboot = False
            machine = self.machine = Machine(plan, plan["fds"])
            machine.tell = self.tell
            if self.timing:
                self.timing.machine = machine
            try:
                machine.build(self.timing.mark if self.timing else lambda phase: None)
                self._serve(machine, paused=first and not plan.get("start", True))
                if self.timing:
                    self.timing.report()
            finally:
                machine.close()
            first = False
            if self.reboot:
                self.tell("rebooted")
                if self.control:
                    self.control.rebooted(machine)
        self.tell("exited", status=self.outcome)
        return self.outcome or 0

    def extend_path(self, folders: list[str]) -> None:
        """Let a device class of the user's own import what the user's program can."""
        sys.path += [folder for folder in folders if folder not in sys.path]

    def _serve(self, machine: Machine, paused: bool) -> None:
        machine.loop.add(self.signal_fd, 1, self._on_signal)
        if self.control:
            machine.loop.add(self.control.fd, 1, self.control.on_readable)
        machine.start(paused)
        self.tell("created" if paused else "booted")
        while self.outcome is None and not self.reboot:
            machine.loop.wait()
            while event := machine.next_event():
                self._on_event(machine, *event)

    def _on_signal(self, fd: int, events: int) -> None:
        number = lib.vmm_signal_next(fd)
        if number == SIGUSR1 and self.machine is not None:
            from .reload import reload_changed

            before, self.loaded = self.loaded, time.time()
            reload_changed(self.machine, before, say)
        elif number > 0:
            self.end(128 + number)

    def _on_event(self, machine: Machine, kind: int, arg: int, when: int) -> None:
        if self.outcome is not None:
            return  # the first reason counts
        if kind in (SHUTDOWN, QUIT):
            self.end(ExitCode.OK, NAMES[kind])
        elif kind == RESET:
            self.request_reboot()
        elif kind == PANIC:
            say("the guest's kernel panicked")
            self.end(ExitCode.PANIC, "panic")
        elif kind == TRIPLE:
            say(f"triple fault on vCPU {arg}: the guest lost its exception handlers")
            self.end(ExitCode.TRIPLE_FAULT, "triple-fault")
        elif kind == ERROR:
            say(f"error: {machine.error_text()}{machine.platform.error_hint}")
            for line in machine.describe_vcpu(arg):
                say(line)
            self.end(ExitCode.KVM_ERROR, "error")
        elif kind == EXIT:
            if arg:
                say(f"the guest ended with status {arg}")
            self.end(ExitCode.GUEST if arg else ExitCode.OK, "guest-exit")
        elif kind == STAMP and self.timing:
            self.timing.stamp(arg, when)
        elif kind in (DEVICE, HOTPLUG):
            if kind == DEVICE:
                machine.device_event(arg)
            if not arg:  # HOTPLUG, or events were lost
                machine.hotplug_event()

    def request_reboot(self) -> None:
        """Build the machine anew, unless the plan says that a reset ends the VM."""
        if self.plan.get("on_reset") == "exit":
            self.end(ExitCode.OK, "reset")
        elif self.outcome is None:
            self.reboot = True

    def end(self, status: int, why: str = "signal") -> None:
        """Leave the main loop; the first reason counts."""
        if self.outcome is None:
            self.outcome = status
            self.tell("ending", reason=why)

    def tell(self, event: str, **data: Any) -> None:
        """An event for the front."""
        if self.control:
            self.control.event(event, data)


def main(plan: dict[str, Any], started: int) -> NoReturn:
    """Run the plan and exit."""
    # A Python device's handler should not wait 5 ms for another thread's turn (the default).
    sys.setswitchinterval(0.0005)
    try:
        status = Runner(plan, started).run()
    except VmmError as error:
        say(f"error: {error}")
        status = error.exit_code
    sys.stdout.flush()
    sys.exit(status)
