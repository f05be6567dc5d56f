# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the network device (virtio 1.2 §5.1); frames are carried by native/ or by vhost-net."""

from __future__ import annotations

from vmmcore.errors import UserError, VmmError
from vmmcore.virtio import VirtioDevice

from . import control as c
from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.virtio import Queue

_KINDS = {"tap": 0, "packet": 1, "stream": 2}
_CTRL_QUEUE_SIZE = 64
_HEADER = 12
_EPOLLRDHUP = 0x2000
_STATISTICS = {"rx_bytes": "tx_bytes", "rx_frames": "tx_packets", "tx_bytes": "rx_bytes", "tx_frames": "rx_packets"}


class VirtioNet(VirtioDevice):
    """Queues: rx0, tx0, rx1, tx1, …, control. Files: ``tap0``… and ``vhost0``…, one for each queue pair."""

    virtio_id = 1
    class_code = 0x020000  # network controller, Ethernet
    feature_requires = c.REQUIRES
    queue_group = 2  # an answer that comes back while a frame is sent wakes no second thread
    operations = ("set_link", "announce")

    def configure(self) -> None:
        options = self.options
        self.pairs: int = options["pairs"]
        self.vhost: bool = options["vhost"]
        self._net: Any = None
        self._vhost_running: list[tuple[int, int]] = []  # (pair, ring) that the kernel drives
        self._watched = False
        if "tap0" not in self.files:
            self._open_host()
        self.kind: str = options["host"]["kind"]
        self.taps = [self.files[f"tap{n}"] for n in range(self.pairs)]
        self.control = c.Control(self, bytes.fromhex(options["mac"].replace(":", "")))
        self.queue_sizes = [options["queue_size"]] * (2 * self.pairs) + [_CTRL_QUEUE_SIZE]
        self.device_features = c.offer(options, self._offloads())
        if self.vhost:
            self._vhost_features()
            self._before = self._statistics()
        self.config_space = self.control.config()
        if not self.vhost:
            self._net = self._plane()

    def _open_host(self) -> None:
        """A saved plan: what it names is opened here."""
        host, flag = self.options["host"], self.options["flag"]
        if host["kind"] != "tap":
            raise UserError(flag, "a saved plan cannot start user-mode networking", "use vmm run with the options")
        from . import tap

        host["name"], fds = tap.open_host(host, self.pairs, flag)
        self.files.update((f"tap{n}", fd) for n, fd in enumerate(fds))
        tap.set_up(host["name"], flag, ip=host["ip"], mask=host["mask"], mac=host["mac"], mtu=self.options["mtu"])

    def _offloads(self) -> int:
        """The TUN_F_* that the host side knows."""
        if self.kind != "tap":
            return 0
        for flags in (c.TUN_ALL, c.TUN_ALL & ~c.TUN_USO, c.TUN_ALL & ~c.TUN_USO & ~c.TUN_UFO, c.TUN_CSUM):
            if lib.net_tap_offload(self.taps[0], flags) == 0:
                lib.net_tap_offload(self.taps[0], 0)
                return flags
        return 0

    def _vhost_features(self) -> None:
        features = ffi.new("uint64_t *")
        self._check(lib.vhost_features(self.files["vhost0"], features), "VHOST_GET_FEATURES")
        known: int = features[0]
        self._vhost_mask = known & (1 << 15 | 1 << 28 | 1 << 29 | 1 << 32)  # MRG_RXBUF, INDIRECT, EVENT_IDX, VERSION_1
        if not known & c.MRG_RXBUF:
            self.device_features &= ~c.MRG_RXBUF
        self.transport_features &= known | 1 << 40  # RING_RESET is the core's

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            import os

            raise VmmError(f"{self.id}: {what}: {os.strerror(-result)}")
        return result

    def check_features(self, features: int) -> bool:
        """GUEST_ECN and HOST_ECN need one of two others (virtio 1.2 §5.1.3.1)."""
        return all(not features & 1 << ecn or features & (1 << tso4 | 1 << tso6) for ecn, tso4, tso6 in c.ECN)

    # --- life ---

    def start(self) -> None:
        # The control queue follows the pairs that exist for the driver (virtio 1.2 §5.1.2).
        features = self.features
        used = self.pairs if features & c.MQ else 1
        self.control.index = 2 * used if features & c.CTRL_VQ else -1
        queue = self.queues[self.control.index] if self.control.index > 0 else None
        self.control.begin(queue, features)
        if self.kind == "tap":
            for fd in self.taps:
                self._check(lib.net_tap_header(fd, _HEADER), "TUNSETVNETHDRSZ")
            self.apply_offloads()
            self.apply_filter()
        else:
            self._watch_helper()
        for pair in range(used):
            rx, tx = self.queues[2 * pair], self.queues[2 * pair + 1]
            if self.vhost:
                self._start_vhost(pair, features)
            else:
                enabled = self._attach_tap(pair, pair < self.control.pairs and rx.active)
                self._check(lib.net_start(self._net, pair, rx.address if rx.active else 0,
                                          tx.address if tx.active else 0, enabled), "starting a queue pair")
        for pair in range(used, self.pairs):
            self._attach_tap(pair, False)

    def _plane(self) -> Any:
        """The data plane in C; gone with the last reference to it."""
        error = ffi.new("int *")
        net = lib.net_new(ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
                          self.id.encode(), _KINDS[self.kind], self.pairs, self.taps, error)
        if net == ffi.NULL:
            self._check(error[0], "the data plane")
        net = ffi.gc(net, lib.net_free)
        limit = self.options["limit"]
        if limit:
            self._check(lib.net_limit(net, *limit["bw"], *limit["ops"]), "the rate limit")
        return net

    def _attach_tap(self, pair: int, attached: bool) -> bool:
        """Have the kernel give frames to a TAP's queue, or not. With one pair there is nothing to choose."""
        if self.kind == "tap" and self.pairs > 1:
            lib.net_tap_attach(self.taps[pair], attached)  # EINVAL: it is so already
        return attached

    def stop(self) -> None:
        # Pairs, filters and offloads outlive a pause; a driver that resets the device starts anew.
        self.control.kept = self.state == "paused"
        if self._net is not None:
            lib.net_stop(self._net)
        for pair, ring in self._vhost_running:
            fd = self.files[f"vhost{pair}"]
            lib.vhost_backend(fd, ring, -1)
            base = lib.vhost_base(fd, ring)
            if base >= 0:
                self.queues[2 * pair + ring].base = base
        self._vhost_running.clear()
        if self.kind == "tap" and self.control.filtered:
            lib.net_tap_filter(self.taps[0], 0, 0, b"")

    def memory_added(self) -> None:
        """The kernel has a list of the RAM of its own: it gets the new one at the next start."""
        if self.running and self._vhost_running:
            self._enter("paused")
            self._enter("activated")

    def remove(self) -> None:
        import posix

        if self._watched:
            self.machine.loop.remove(self.taps[0])
        if self._net is not None:
            ffi.release(self._net)
            self._net = None
        for fd in self.files.values():
            posix.close(fd)
        self.files = {}

    def _watch_helper(self) -> None:
        """The guest's link goes down when the helper process ends."""
        if self._watched:
            return

        def on_end(fd: int, events: int) -> None:
            self.machine.loop.remove(fd)
            self._watched = False
            self.set_link(False)

        self.machine.loop.add(self.taps[0], _EPOLLRDHUP, on_end)
        self._watched = True

    # --- vhost-net ---

    def _start_vhost(self, pair: int, features: int) -> None:
        fd = self.files[f"vhost{pair}"]
        api, vm = ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address)
        regions = [number for region in self.machine.memory.regions for number in region]
        self._check(lib.vhost_start(fd, api, vm, features & self._vhost_mask, len(regions) // 2, regions),
                    "starting vhost-net")
        for ring in (0, 1):
            queue = self.queues[2 * pair + ring]
            if not queue.active:
                continue
            desc, driver, device = queue.addresses
            setup = ffi.new("struct vhost_queue *", {
                "index": ring, "size": queue.size, "base": queue.base, "desc": desc, "driver": driver,
                "device": device, "kick_fd": queue.kick_fd, "call_fd": queue.call_fd})
            self._check(lib.vhost_queue(fd, api, vm, setup), "giving vhost-net a queue")
            self._vhost_running.append((pair, ring))
        self._run_vhost(pair, pair < self.control.pairs)

    def _run_vhost(self, pair: int, on: bool) -> None:
        """The kernel polls the TAP only while its queue is attached."""
        if on:
            self._attach_tap(pair, True)
        for running, ring in self._vhost_running:
            if running == pair:
                self._check(lib.vhost_backend(self.files[f"vhost{pair}"], ring, self.taps[pair] if on else -1),
                            "VHOST_NET_SET_BACKEND")
                if on:  # there may be requests already
                    self._kick(self.queues[2 * pair + ring])
        if not on:
            self._attach_tap(pair, False)

    @staticmethod
    def _kick(queue: Queue) -> None:
        import posix

        posix.write(queue.kick_fd, (1).to_bytes(8, "little"))

    # --- what the control queue asks for ---

    def handle(self, queue: Queue) -> None:
        if queue.index == self.control.index:
            for chain in queue:
                chain.write(self.control.answer(chain))

    def enable_pairs(self, count: int) -> None:
        """Frames go to the first `count` pairs from now on."""
        for pair in range(self.pairs if self.features & c.MQ else 1):
            on = pair < count
            if self.vhost:
                self._run_vhost(pair, on)
                continue
            if on:
                self._attach_tap(pair, True)
            self._check(lib.net_enable(self._net, pair, on), "enabling a queue pair")
            if not on:
                self._attach_tap(pair, False)

    def apply_offloads(self) -> None:
        """What the guest takes from a TAP: TUNSETOFFLOAD."""
        self._check(lib.net_tap_offload(self.taps[0], c.tun_flags(self.control.offloads)), "TUNSETOFFLOAD")

    def apply_filter(self) -> None:
        """Have the TAP leave out what the driver has not asked for. A host side that cannot sends everything."""
        if self.kind == "tap":
            addresses = self.control.addresses()
            lib.net_tap_filter(self.taps[0], self.control.all_multicast, len(addresses) // 6, addresses)

    # --- the rest ---

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it: the guest hears of it."""
        self.control.set_status(c.S_LINK_UP, up)

    def announce(self) -> None:
        """After a migration: have the guest tell the network where it is now. No-op if it cannot."""
        if self.features & c.GUEST_ANNOUNCE:
            self.control.set_status(c.S_ANNOUNCE, True)

    def save(self) -> dict[str, Any]:
        return self.control.save()

    def restore(self, state: dict[str, Any]) -> None:
        self.control.restore(state)

    def counters(self) -> dict[str, int]:
        """vhost-net counts nothing: what the host's interface has counted since the device was made."""
        if not self.vhost:
            return {}
        return {key: count - self._before[key] for key, count in self._statistics().items()}

    def _statistics(self) -> dict[str, int]:
        name, found = self.options["host"].get("name"), {}
        for ours, theirs in _STATISTICS.items():
            try:
                with open(f"/sys/class/net/{name}/statistics/{theirs}") as file:
                    found[ours] = int(file.read())
            except (OSError, ValueError):
                found[ours] = 0
        return found
