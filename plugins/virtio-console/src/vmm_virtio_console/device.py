# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the console: a thin handle on the C data plane."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# virtio 1.2 §5.3.3
F_SIZE, F_MULTIPORT = 1 << 0, 1 << 1

_FLAGS = {
    "tty": lib.VMM_CHARDEV_RAW | lib.VMM_CHARDEV_ESCAPE | lib.CONSOLE_TERMINAL,
    "pty": lib.VMM_CHARDEV_DROP | lib.CONSOLE_TERMINAL,
}

#: position of a queue from which nothing has been taken: split, packed (virtio 1.2 §2.8.10: wrap counters begin at 1)
_UNUSED = (0, 0x80008000)


class Console(VirtioDevice):
    """virtio 1.2 §5.3, with one port or several.

    Option ``ports``: ``[{"name": None or text, "host": "tty", "pty", "file", "socket" or "null"}, …]``, the first
    is the console. ``files``: ``N.in``, ``N.out`` or ``N.listen`` of port N. Option ``sockets``: ``[[path, device,
    inode], …]`` to be removed from the file system when the process ends.
    """

    virtio_id = 3
    class_code = 0x078000  # communication controller, other
    in_order = True

    _keep = False  # whether the next start() goes on where the last one was stopped, whatever the queues look like

    def configure(self) -> None:
        ports = self.options["ports"]
        config = ffi.new("struct console_port[]", len(ports))
        names = [ffi.new("char[]", port["name"].encode()) if port["name"] else ffi.NULL for port in ports]
        for number, port in enumerate(ports):
            config[number].name = names[number]
            config[number].flags = _FLAGS.get(port["host"], 0)
            for kind in ("in", "out", "listen"):
                setattr(config[number], kind + "_fd", self.files.pop(f"{number}.{kind}", -1))
        if not _is_terminal(config[0]):
            config[0].flags &= ~lib.CONSOLE_TERMINAL
        error = ffi.new("int *")
        self._console = lib.console_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
            self.id.encode(), config, len(ports), self.options.get("legacy_size", False), error)
        if not self._console:
            import os

            raise VmmError(f"{self.id}: cannot create the console: {os.strerror(-error[0])}")
        self._size = ffi.new("uint16_t[2]")
        has_size = lib.console_size(self._console, self._size, self._size + 1)
        self.queue_sizes = (128, 128)
        if len(ports) > 1:
            self.queue_sizes += (32, 32) + (128, 128) * (len(ports) - 1)
        self.device_features = (F_SIZE if has_size else 0) | (F_MULTIPORT if len(ports) > 1 else 0)
        self.config_space = self._size_bytes() + len(ports).to_bytes(4, "little") + bytes(4)
        self.machine.loop.add(lib.console_notice_fd(self._console), 1, self._on_resize)
        if self.options.get("sockets"):
            from vmmcore.sockets import remove_at_end

            remove_at_end(self.options["sockets"])

    def _size_bytes(self) -> bytes:
        return b"".join(self._size[n].to_bytes(2, "little") for n in range(2))

    def _on_resize(self, fd: int, events: int) -> None:
        import posix

        posix.read(fd, 8)
        lib.console_size(self._console, self._size, self._size + 1)
        # with several ports the driver is told by a message (§5.3.5)
        self.update_config(0, self._size_bytes(), notify=not self.features & F_MULTIPORT)

    def start(self) -> None:
        queues = ffi.new("void *[]", [ffi.cast("void *", queue.address if queue.active else 0)
                                      for queue in self.queues])
        fresh = bytes(not (self._keep or (queue.active and queue.base not in _UNUSED)) for queue in self.queues)
        self._keep = False
        if error := lib.console_start(self._console, queues, fresh, len(queues), self.features):
            import os

            raise VmmError(f"{self.id}: cannot start: {os.strerror(-error)}")

    def stop(self) -> None:
        self._keep = self.state == "paused"
        lib.console_stop(self._console)

    def remove(self) -> None:
        self.machine.loop.remove(lib.console_notice_fd(self._console))
        console, self._console = self._console, ffi.NULL
        lib.console_free(console)
        if self.options.get("sockets") and self.id not in self.machine.devices:  # else a reboot may follow
            from vmmcore.sockets import remove

            remove(self.options["sockets"])

    def save(self) -> dict[str, Any]:
        """What the driver has said of each port, and input that is on its way to it."""
        state, ports = ffi.new("struct console_port_state *"), []
        for number in range(len(self.options["ports"])):
            lib.console_save(self._console, number, state)
            ports.append({"ready": state.ready, "open": state.guest_open, "todo": state.todo,
                          "sent": state.tx_done, "input": bytes(ffi.buffer(getattr(state, "in"), state.in_len))})
        return {"ports": ports, "running": self._keep}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that this console cannot have been in."""
        try:
            ports = state["ports"]
            if len(ports) != len(self.options["ports"]):
                raise ValueError(f"it has {len(ports)} ports, this console has {len(self.options['ports'])}")
            for number, port in enumerate(ports):
                data = bytes(memoryview(port["input"]))
                if len(data) > lib.CONSOLE_INPUT:
                    raise ValueError("too much input")
                saved = ffi.new("struct console_port_state *", {
                    "ready": port["ready"], "guest_open": port["open"], "todo": port["todo"],
                    "tx_done": port["sent"], "in_len": len(data)})
                ffi.memmove(getattr(saved, "in"), data, len(data))
                if lib.console_restore(self._console, number, saved):
                    raise ValueError(f"port {number}")
            self._keep = bool(state["running"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VmmError(f"{self.id}: saved state is not usable: {error}") from None


def _is_terminal(port: Any) -> bool:
    """Whether somebody can change the size of what the port writes to."""
    import posix

    fd = port.out_fd if port.out_fd >= 0 else port.in_fd
    return fd >= 0 and posix.isatty(fd)
