# SPDX-License-Identifier: Apache-2.0
"""The front's half of the network device: its options, and the host side that it opens."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import IntList, Option
from vmmcore.front.ratelimit import RateLimitOptions, rate_limit
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

from . import tap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)


class NetOptions(VirtioOptions, RateLimitOptions):
    """``--net tap=NAME``, ``--net user``, ``--net macvtap=NAME``, ``--net fd=[3,4]``, or ``--net`` alone: a new TAP."""

    positional = "mode"
    mode = Option(str, None, "tap: a TAP interface of the host; user: networking without privileges, through passt "
                  "or slirp", choices=("tap", "user"))
    tap = Option(str, None, "name of the TAP; one that does not exist is created, and removed with the VM",
                 metavar="NAME")
    macvtap = Option(str, None, "name of a macvtap interface", metavar="NAME")
    fd = Option(IntList, [], "open TAP descriptors, one for each queue pair; or a connected socket that speaks to "
                "passt (stream) or slirp (messages)")
    ip = Option(str, None, "address of the TAP on the host", metavar="ADDRESS")
    mask = Option(str, None, "network mask or prefix length of ip (255.255.255.0, IPv6: 64)", metavar="MASK")
    mac = Option(str, None, "MAC address of the guest's interface (default: a new one)", metavar="MAC")
    host_mac = Option(str, None, "MAC address of the TAP on the host", metavar="MAC")
    mtu = Option(int, None, "largest IP packet: told to the guest, and set on the TAP", min=68, max=65521)
    num_queues = Option(int, 2, "receive and transmit queues together, an even number", min=2, max=512)
    queue_size = Option(int, 256, "entries of a queue, a power of two", min=2, max=1024)
    vhost = Option(bool, False, "let the host's kernel (vhost-net) carry the frames")
    offload_tso = Option(bool, True, "TCP segmentation is left to the other side")
    offload_ufo = Option(bool, True, "UDP segmentation is left to the other side")
    offload_csum = Option(bool, True, "checksums are left to the other side; off: segmentation is off, too")
    ports = Option(str, [], "user: ports of the host that lead to the guest, [tcp:]8080:80 or "
                   "udp:0.0.0.0:53:53 (default address: 127.0.0.1)", many=True, metavar="[PORT:PORT,…]")

    def validate(self, option: str) -> None:
        super().validate(option)
        self._check_host_side(option)
        for key in ("mac", "host_mac"):
            value = self._values[key]
            if value is not None:
                self._check_mac(value, f"{option} {key}=")
        self._check_address(option)
        if self.num_queues % 2:
            raise UserError(f"{option} num_queues=", f"{self.num_queues} is odd: a pair is for receive and transmit",
                            f"use {self.num_queues + 1}")
        if self.queue_size & (self.queue_size - 1):
            raise UserError(f"{option} queue_size=", f"{self.queue_size} is no power of two", "use 256")
        if self.vhost:
            self._check_vhost(option)

    def _check_host_side(self, option: str) -> None:
        given = [key for key in ("mode", "tap", "macvtap", "fd") if self._values[key]]
        if self.mode == "tap":
            given.remove("mode")
        names = ["user" if key == "mode" else f"{key}=" for key in given]
        if len(given) > 1:
            raise UserError(f"{option} {names[1]}", f"cannot be combined with {names[0]}", "keep one of them")
        for key in ("tap", "macvtap"):
            if self._values[key] is not None:
                tap.check_name(self._values[key], f"{option} {key}=")
        if names not in ([], ["tap="]):
            for key in ("ip", "mask", "host_mac"):
                if self._values[key] is not None:
                    raise UserError(f"{option} {key}=", f"cannot be combined with {names[0]}", "it is for TAPs")
        if self.ports and self.mode != "user":
            raise UserError(f"{option} ports=", "is for user-mode networking", "use mode=user")
        if self.mode == "user":
            from .user import Forward

            if self.num_queues != 2:
                raise UserError(f"{option} num_queues=", "user-mode networking has one queue pair", "leave it out")
            for text in self.ports:
                Forward(text, f"{option} ports=")
        if self.fd and len(self.fd) != self.num_queues // 2:
            raise UserError(f"{option} fd=", f"{len(self.fd)} descriptors for {self.num_queues} queues",
                            f"use num_queues={2 * len(self.fd)}")
        if len(set(self.fd)) != len(self.fd):
            raise UserError(f"{option} fd=", "names a descriptor twice", "pass one for each queue pair")

    @staticmethod
    def _check_mac(value: str, option: str) -> None:
        try:
            mac = tap.parse_mac(value)
        except ValueError as error:
            raise UserError(option, str(error)) from None
        if mac[0] & 1 or not any(mac):
            raise UserError(option, f"'{value}' is not the address of one interface",
                            "the first byte of such an address is even, and not all are zero")

    def _check_address(self, option: str) -> None:
        try:
            if self.ip is not None:
                tap.parse_ip(self.ip)
        except ValueError as error:
            raise UserError(f"{option} ip=", str(error), "write ip=192.168.249.1,mask=24") from None
        if self.mask is None:
            return
        if self.ip is None:
            raise UserError(f"{option} mask=", "is given without ip=", "give ip=ADDRESS")
        try:
            if ":" not in self.ip:
                tap.dotted(self.mask)
            elif not (self.mask.isdecimal() and int(self.mask) <= 128):
                raise ValueError(f"'{self.mask}' is no IPv6 prefix length")
        except ValueError as error:
            raise UserError(f"{option} mask=", str(error)) from None

    def _check_vhost(self, option: str) -> None:
        if self.mode == "user":
            raise UserError(f"{option} vhost=", "the kernel cannot do user-mode networking", "use tap=, or vhost=off")
        if self.packed:
            raise UserError(f"{option} packed=", "vhost-net has no packed virtqueues", "use vhost=off or packed=off")
        if rate_limit(self):
            key = "bw_size" if self.bw_size else "ops_size"
            raise UserError(f"{option} {key}=", "vhost-net has no rate limit", "use vhost=off")


def plan(context: PlanContext, options: NetOptions, device: dict[str, Any]) -> None:
    """Open the host side; with dry_run only say what it is, and the runner opens the TAP."""
    flag = f"--{device['type']}"
    pairs = options.num_queues // 2
    host: dict[str, Any] = {"kind": "tap"}
    plain = device["options"] = {
        "host": host, "pairs": pairs, "queue_size": options.queue_size, "mtu": options.mtu, "vhost": options.vhost,
        "tso": options.offload_tso, "ufo": options.offload_ufo, "csum": options.offload_csum,
        "packed": options.packed, "iommu": options.iommu, "limit": rate_limit(options), "flag": flag,
    }
    device["files"] = {}
    mac = options.mac
    if options.mode == "user":
        host["kind"] = "user"
        if not context.dry_run:
            from . import user

            fd, host["kind"] = user.start(options.ports, options.mtu, flag)
            device["files"]["tap0"] = context.adopt_fd(fd, {"socket": "user-mode networking"})
    elif options.fd:
        host["kind"] = _adopt(context, options, device, f"{flag} fd=")
    else:
        host.update(macvtap=options.macvtap, name=options.macvtap or options.tap, ip=options.ip, mask=options.mask,
                    mac=options.host_mac)
        if not context.dry_run:
            host["name"], fds = tap.open_host(host, pairs, flag)
            _add(context, device, fds, {"macvtap" if options.macvtap else "tap": host["name"]})
            tap.set_up(host["name"], flag, ip=options.ip, mask=options.mask, mac=options.host_mac, mtu=options.mtu)
        if options.macvtap:
            mac = mac or tap.mac_of(options.macvtap)
    plain["mac"] = mac or _new_mac()
    if options.vhost:
        _check_vhost_node(f"{flag} vhost=")
        for pair in range(pairs):
            device["files"][f"vhost{pair}"] = context.open_file(VHOST, f"{flag} vhost=", "rw")


VHOST = "/dev/vhost-net"


def _add(context: PlanContext, device: dict[str, Any], fds: list[int], description: dict[str, Any]) -> None:
    for index, fd in enumerate(fds):
        device["files"][f"tap{index}"] = context.adopt_fd(fd, dict(description))


def _adopt(context: PlanContext, options: NetOptions, device: dict[str, Any], option: str) -> str:
    """Take over descriptors that were passed; their kind."""
    kinds = set()
    for fd in options.fd:
        if fd in context.fds or fd <= 2:
            raise UserError(option, f"{fd} is in use already", "pass a TAP's own descriptor")
        kinds.add(tap.check_fd(fd, option))
    if len(kinds) != 1 or (len(options.fd) > 1 and kinds != {"tap"}):
        raise UserError(option, "several descriptors must all be TAPs", "pass one socket, or one TAP a queue pair")
    kind = kinds.pop()
    if kind != "tap" and options.vhost:
        raise UserError(f"--{device['type']} vhost=", "the kernel cannot drive a socket", "pass a TAP, or use vhost=off")
    _add(context, device, options.fd, {"fd": kind})
    if kind == "tap":
        device["options"]["host"]["name"] = tap.fd_name(options.fd[0])
    return kind


def _check_vhost_node(option: str) -> None:
    import os

    if not os.path.exists(VHOST):
        raise UserError(option, f"{VHOST} does not exist", "modprobe vhost_net, or use vhost=off")
    if not os.access(VHOST, os.R_OK | os.W_OK):
        raise UserError(option, f"this user may not open {VHOST}", f"chown $USER {VHOST}, or use vhost=off")


def _new_mac() -> str:
    """A locally administered address."""
    import os

    return ":".join(f"{byte:02x}" for byte in b"\x52\x54\x00" + os.urandom(3))


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("net", "vmm_virtio_net.device:VirtioNet", options=NetOptions, plan=plan,
                       doc="network interface (virtio-net) on a TAP, a macvtap, or user-mode networking")]
