# SPDX-License-Identifier: Apache-2.0
"""A handle to one VM: its runner is a process of its own, this object talks to it."""

from __future__ import annotations

import sys
import threading

from ..errors import GuestError, VmmError
from .channel import Channel
from .config import DeviceConfig, VmConfig
from .launch import spawn_runner
from .planning import PlannedVm, compile_plan, plan_more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Literal, Self

    from ..device import Device
    from .plugins import Plugins

    State = Literal["new", "created", "running", "paused", "shutdown"]

#: seconds for requests that may take long
SLOW = 600.0
#: bytes of memory a second that the host finds at least (prefault=on)
FILL_RATE = 16 << 20
WEEK = 7 * 86400
_STATES: dict[str, State] = {
    "created": "created",
    "booted": "running",
    "resumed": "running",
    "rebooted": "running",
    "paused": "paused",
    "exited": "shutdown",
}


class Vm:
    """One virtual machine. Use it as a context manager: at the end nothing of it is left::

        with Vm(VmConfig(kernel="vmlinuz")) as vm:
            vm.boot()
            print(vm.wait())

    States: new, created (built, not running), running, paused, shutdown. Methods may be
    called from any number of threads at once: what they return is true at some moment of the
    call, changes of devices happen one after the other, and none of them waits for a plan that
    another is making but add_device() and remove_device(). All of them raise GuestError when
    the runner refuses or is gone; a message of the runner itself goes to our stderr.
    """

    def __init__(self, config: VmConfig, *, plugins: Plugins | None = None) -> None:
        self.config = config
        self.id = config.id
        self.state: State = "new"
        self._plugins = plugins
        self._planned: PlannedVm | None = None
        self._channel: Channel | None = None
        self._callbacks: list[Callable[[str, dict[str, Any]], object]] = []
        self._closed = False
        self._life = threading.Lock()  # create, boot
        self._changing = threading.Lock()  # the plan's devices
        # Written by _note() under the channel's lock:
        self._let_go: list[str] = []  # devices that are gone from the machine and not yet from the plan
        self._removals: dict[str, int] = {}  # how often a device of this id has gone
        self._removing: set[str] = set()  # devices that the guest was asked to let go

    # --- life cycle -------------------------------------------------------

    def create(self) -> None:
        """Plan and build the machine; it does not run yet. Raises any VmmError."""
        with self._life:
            self._create()

    def _create(self) -> None:
        if self.state != "new":
            raise GuestError(f"create: {self.id} is {self.state}")
        self._start(compile_plan(self.config, self._plugins), start=False)
        try:
            self._request("info", timeout=SLOW)
        except BaseException:
            self.close()
            raise

    def _start(self, planned: PlannedVm, *, start: bool) -> None:
        planned.plan["start"] = start
        try:
            self._channel = Channel(spawn_runner(planned), self._happened, self._note)
        except BaseException:
            planned.release()
            raise
        self._planned = planned
        if self._closed:  # by another thread, which saw no runner yet
            self.close()
            raise GuestError(f"create: {self.id} was closed")

    def boot(self) -> None:
        """Let the guest run its first instruction (creates the machine first if need be)."""
        with self._life:
            if self.state == "new":
                self._create()
            if self.state != "created":
                raise GuestError(f"boot: {self.id} is {self.state}")
            self._request("boot")

    def pause(self) -> None:
        """Stop all vCPUs; returns when they stand."""
        self._request("pause")

    def resume(self) -> None:
        """Let the vCPUs go on."""
        self._request("resume")

    def reboot(self) -> None:
        """Reset the machine and boot again, in the same runner."""
        self._request("reboot")

    def power_button(self) -> None:
        """Press the power button: the guest may shut down, in its own time."""
        self._request("power-button")

    def nmi(self) -> None:
        """A non-maskable interrupt for every vCPU. Raises GuestError where there is none."""
        self._request("nmi")

    def shutdown(self, timeout: float = 10.0) -> int:
        """End the VM now, without asking the guest. Its exit status."""
        try:
            self._request("shutdown", timeout=timeout)
        except GuestError:
            if self._running_channel().status is None:
                self._running_channel().runner.kill()
        status = self.wait(timeout)
        return self.close() if status is None else status

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the VM to end: its exit status (see ExitCode), or None after `timeout` s."""
        channel = self._running_channel()
        channel.until(lambda: channel.status is not None, timeout)
        return channel.status

    def close(self) -> int:
        """Kill the runner if it still runs, and reap it. Its exit status (0 if there never was one)."""
        self._closed = True
        channel, planned = self._channel, self._planned
        status = 0 if channel is None else channel.close()
        if planned is not None:
            planned.release()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- asking -----------------------------------------------------------

    def info(self, timeout: float = 60.0) -> dict[str, Any]:
        """What the runner says of itself: state, vCPUs, memory, devices. GuestError after `timeout` s."""
        channel = self._running_channel()
        # Who asks a busy runner again and again must not fill its socket: then no request would get through.
        if not channel.keeps_up(timeout) and channel.status is None:
            raise GuestError(f"info: the runner did not answer within {timeout:g} s")
        return self._request("info", timeout=timeout)

    def counters(self) -> dict[str, dict[str, int]]:
        """Counters of every device and of the vCPUs: id -> name -> number."""
        return self._request("counters")

    def devices(self) -> list[dict[str, Any]]:
        """What the machine has, without asking it: {"id", "type", "bdf" (None: not on PCI), "removing"} each."""
        gone = set(self._let_go)
        return [
            {
                "id": device["id"],
                "type": device["type"],
                "bdf": f"{device['segment']:04x}:00:{device['slot']:02x}.0" if device["bus"] == "pci" else None,
                "removing": device["id"] in self._removing,
            }
            for device in list(self._planned.plan["devices"] if self._planned is not None else ())
            if device["id"] not in gone
        ]

    def save(self) -> dict[str, Any]:
        """The states of all devices, while paused."""
        return self._request("save")

    @property
    def plan(self) -> dict[str, Any]:
        """The plan that was or will be run; it is made if need be."""
        if self._planned is None:
            with compile_plan(self.config, self._plugins, dry_run=True) as planned:
                return planned.plan
        return self._planned.plan

    @property
    def pid(self) -> int:
        """Process id of the runner."""
        return self._running_channel().runner.pid

    def signal(self, number: int) -> None:
        """Send the runner a signal: SIGUSR1 has it reload changed devices."""
        self._running_channel().runner.signal(number)

    # --- devices ----------------------------------------------------------

    def add_device(
        self,
        device: DeviceConfig | str | type[Device],
        options: Mapping[str, Any] | str | None = None,
        *,
        id: str | None = None,
    ) -> str:
        """Attach a device to the running machine; its id. Raises UserError, PluginError, GuestError."""
        self._running_channel()
        assert self._planned is not None
        wanted = device if isinstance(device, DeviceConfig) else DeviceConfig(device, options, id)
        with self._changing:
            self._forget_removed()
            with plan_more(self._planned, wanted) as more:
                if more.device is None:
                    return ""
                self._request(
                    "add-device",
                    fds=more.fds,
                    device=more.device,
                    files=more.files,
                    modules=more.modules,
                    user_path=self._planned.plan["user_path"],
                )
                more.keep()
                return str(more.device["id"])

    def remove_device(self, id: str, force: bool = False, *, wait: float = 0.0) -> str:
        """Detach a device: "removed", or "pending" while the guest has yet to let it go (event device-removed then).

        Its id stays taken until it is gone. `force` does not ask the guest; `wait` gives it so many seconds before
        this says "pending". Raises GuestError: there is none, or it cannot be removed.
        """
        channel = self._running_channel()
        with self._changing:
            before = self._removals.get(id, 0)
            self._forget_removed()
            answer = self._request("remove-device", device=id, **({"force": True} if force else {}))
        state = str(answer.get("state", "removed"))
        if state == "pending" and channel.until(lambda: self._removals.get(id, 0) > before, wait):
            return "removed"
        return state

    def _forget_removed(self) -> None:
        """Take out of the plan what the machine has no more; with _changing held."""
        assert self._planned is not None
        devices = self._planned.plan["devices"]
        while self._let_go:
            devices[:] = [device for device in devices if device["id"] != self._let_go[0]]
            del self._let_go[0]

    def resize(self, cpus: int | None = None, memory: int | None = None, balloon: int | None = None) -> None:
        """Plug vCPUs or memory in or out: so many vCPUs, bytes of RAM, bytes in the balloon. Raises GuestError."""
        wanted = {"cpus": cpus, "memory": memory, "balloon": balloon}
        slow = SLOW + min((memory or 0) // FILL_RATE, WEEK)
        self._request("resize", timeout=slow, **{key: value for key, value in wanted.items() if value is not None})

    def resize_zone(self, zone: str, size: int) -> None:
        """Let a memory zone have `size` bytes. Raises GuestError."""
        self._request("resize-zone", timeout=SLOW, zone=zone, bytes=size)

    def reload_device(self, id: str) -> None:
        """Take up the changed source of a PCI device's class while the guest runs; its driver stays bound.

        The VM stands for a moment: the new class takes over registers, PCI and virtio state and what the old one's
        save() returned. Raises GuestError if it cannot, in one line; then the old code goes on.
        """
        self._request("reload-device", device=id)

    def call(self, id: str, method: str, **arguments: Any) -> Any:
        """Call one of the methods that a device's class lists in ``operations``; what it returns.

        Arguments and result are plain data. Raises GuestError: no such device or method, or it failed.
        """
        return self._request("device", device=id, method=method, args=arguments)["result"]

    def resize_disk(self, id: str, size: int | None = None) -> int:
        """Tell the guest of a disk's new size; bytes.

        An image file is made `size` bytes long first (a multiple of 512; data beyond a smaller size is lost);
        without `size`, or for a block device, the size that it has by now is taken. Raises GuestError.
        """
        return int(self.call(id, "resize", size=size))

    # --- events -----------------------------------------------------------

    def on_event(self, callback: Callable[[str, dict[str, Any]], object]) -> None:
        """Have `callback` called with (event, data). It runs in a thread that waits in a method."""
        self._callbacks.append(callback)

    def events(self, timeout: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events as they come, until the VM has ended (or none comes for `timeout` s)."""
        channel = self._running_channel()
        while channel.until(lambda: bool(channel.events), timeout) or channel.events:
            try:
                yield channel.events.popleft()
            except IndexError:  # another thread took it
                continue

    def _note(self, event: str, data: dict[str, Any]) -> None:
        """What an event means for our own state; under the channel's lock, before the answers that follow it."""
        self.state = _STATES.get(event, self.state)
        id = str(data.get("device"))
        if event == "device-remove-pending":
            self._removing.add(id)
        elif event == "device-removed":
            self._removing.discard(id)
            self._let_go.append(id)
            self._removals[id] = self._removals.get(id, 0) + 1

    def _happened(self, event: str, data: dict[str, Any]) -> None:
        for callback in list(self._callbacks):
            callback(event, data)
        if self._planned is not None and self._planned.observed:
            try:
                self._planned.plugins.hooks.vmm_vm_event(vm_id=self.id, event=event, data=data)
            except Exception as error:
                from .plugins import cause

                print(f"vmm: warning: a plugin failed on the event {event}: {cause(error)}", file=sys.stderr)

    # --- talking ----------------------------------------------------------

    def _running_channel(self) -> Channel:
        if self._channel is None:
            raise GuestError(f"{self.id} was not created yet; call create() or boot()")
        return self._channel

    def _request(self, op: str, **fields: Any) -> dict[str, Any]:
        channel = self._running_channel()
        if channel.status is not None:
            raise GuestError(f"{op}: {self.id} has ended with status {channel.status}")
        return channel.request(op, **fields)


def run_observed(planned: PlannedVm) -> int:
    """Run a planned VM to its end with this front beside it, for plugins that observe it. Its exit status."""
    import signal

    vm = Vm.__new__(Vm)
    vm.__init__(_Named(planned.plan["id"]))  # type: ignore[misc]
    vm._start(planned, start=True)
    with vm:
        runner = vm._running_channel().runner
        before = {}

        def forward(number: int, _: object) -> None:
            runner.signal(number)

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            before[number] = signal.signal(number, forward)
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
        try:
            status = vm.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if status is None:
            raise VmmError("the runner was lost")
        return status


class _Named:
    """In place of a configuration, for a VM whose plan exists already."""

    def __init__(self, id: str) -> None:
        self.id = id
