# SPDX-License-Identifier: Apache-2.0
"""Opening TAP and macvtap interfaces (linux/if_tun.h), and setting them up.

Used by the front; and by the runner for a plan that was saved, whose TAPs nobody has opened yet.
All errors are :class:`vmmcore.errors.UserError`, and nothing stays open then.
"""

from __future__ import annotations

import fcntl
import os

from vmmcore.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFADDR, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8915, 0x8916, 0x891C
_SIOCSIFMTU, _SIOCSIFHWADDR = 0x8922, 0x8924
_IFF_UP = 1
_AF_INET, _SOCK_DGRAM, _ARPHRD_ETHER = 2, 2, 1

#: what the kernel puts a number into
DEFAULT_NAME = "vmmtap%d"
_NET = "/sys/class/net"
_PRIVILEGES = "give vmm the capability CAP_NET_ADMIN, name a TAP made with `ip tuntap add NAME mode tap user $USER`, " \
              "or use --net user"


def check_name(name: str, option: str) -> None:
    """Raise UserError for what cannot be the name of an interface."""
    if not 0 < len(name.encode()) < 16 or name in (".", "..") or any(c in "/:%" or c.isspace() for c in name):
        raise UserError(option, f"'{name}' cannot be the name of an interface", "at most 15 characters, no / : % or space")


def open_host(host: dict[str, Any], pairs: int, flag: str) -> tuple[str, list[int]]:
    """Open what a plan's ``host`` names: the interface's name and the descriptors, one a pair."""
    if host["macvtap"]:
        return host["macvtap"], open_macvtap(host["macvtap"], pairs, f"{flag} macvtap=")
    return open_tap(host["name"], pairs, f"{flag} tap=")


def open_tap(name: str | None, pairs: int, option: str) -> tuple[str, list[int]]:
    """Open a TAP for `pairs` queue pairs: its name and the descriptors, one a pair.

    An interface that exists is used; otherwise it is created, and vanishes with its last descriptor.
    """
    multi = pairs > 1
    flags = _sysfs(name, "tun_flags") if name else ""
    if name and os.path.exists(f"{_NET}/{name}"):
        if not flags:
            raise UserError(option, f"{name} is no TAP", "name a TAP, or an interface that does not exist yet")
        if not int(flags, 16) & _IFF_TAP:
            raise UserError(option, f"{name} is a TUN", f"make it with `ip tuntap add {name} mode tap`")
        has_many = bool(int(flags, 16) & _IFF_MULTI_QUEUE)
        if multi and not has_many:
            raise UserError(option, f"{name} has one queue pair",
                            f"make it with `ip tuntap add {name} mode tap multi_queue`, or use num_queues=2")
        multi = has_many
    wanted = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi else 0)
    fds: list[int] = []
    actual = name or DEFAULT_NAME
    try:
        for _ in range(pairs):
            fds.append(_open_clone(option))
            try:
                answer = fcntl.ioctl(fds[-1], _TUNSETIFF, _ifreq(actual, wanted.to_bytes(2, "little")))
            except OSError as error:
                raise _tap_error(error, actual, pairs, option) from None
            actual = answer[:16].rstrip(b"\0").decode()
    except BaseException:
        _close(fds)
        raise
    return actual, fds


def _open_clone(option: str) -> int:
    try:
        return os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UserError(option, "/dev/net/tun does not exist", "modprobe tun, or use --net user") from None
    except PermissionError:
        raise UserError(option, "this user may not open /dev/net/tun", _PRIVILEGES) from None
    except OSError as error:
        raise UserError(option, f"/dev/net/tun: {error.strerror}", "modprobe tun, or use --net user") from None


def _tap_error(error: OSError, name: str, pairs: int, option: str) -> UserError:
    import errno

    if error.errno in (errno.EPERM, errno.EACCES):
        what = "create a TAP" if name == DEFAULT_NAME else f"open the TAP {name}"
        return UserError(option, f"this user may not {what}", _PRIVILEGES)
    if error.errno == errno.EBUSY:
        return UserError(option, f"the TAP {name} is in use", "name another, or end the program that uses it")
    if error.errno == errno.E2BIG:
        return UserError(option, f"a TAP cannot have {pairs} queue pairs", "use a smaller num_queues=")
    return UserError(option, f"cannot open the TAP {name}: {error.strerror}")


def open_macvtap(name: str, pairs: int, option: str) -> list[int]:
    """Open a macvtap interface that exists, once for each queue pair."""
    if not os.path.exists(f"{_NET}/{name}"):
        raise UserError(option, f"there is no interface {name}",
                        f"make it with `ip link add link eth0 name {name} type macvtap mode bridge`")
    try:
        nodes = [node for node in os.listdir(f"{_NET}/{name}/macvtap") if node.startswith("tap")]
    except OSError:
        nodes = []
    if not nodes:
        raise UserError(option, f"{name} is no macvtap interface",
                        f"make one with `ip link add link {name} name macvtap0 type macvtap mode bridge`, name that")
    path = f"/dev/{nodes[0]}"
    fds: list[int] = []
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if pairs > 1 else 0)
    try:
        for _ in range(pairs):
            fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            fcntl.ioctl(fds[-1], _TUNSETIFF, _ifreq(name, flags.to_bytes(2, "little")))
    except OSError as error:
        _close(fds)
        raise UserError(option, f"{path}: {error.strerror}", {
            2: f"udev makes it; or `mknod {path} c $(tr : ' ' < {_NET}/{name}/macvtap/{nodes[0]}/dev)`",
            13: f"this user may not write it; `chown $USER {path}`",
            16: "it is in use; end the program that uses it",
        }.get(error.errno or 0, "")) from None
    return fds


def check_fd(fd: int, option: str) -> str:
    """What an open descriptor is: ``tap``, ``packet`` or ``stream``. It is made non-blocking."""
    try:
        os.set_blocking(fd, False)
    except OSError:
        raise UserError(option, f"{fd} is no open file", "pass one that whoever starts vmm has opened") from None
    try:
        answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    except OSError:
        return _check_socket(fd, option)
    flags = int.from_bytes(answer[16:18], "little")
    if not flags & _IFF_TAP:
        raise UserError(option, f"{fd} is a TUN", "open it with IFF_TAP")
    if not flags & _IFF_NO_PI or not flags & _IFF_VNET_HDR:
        raise UserError(option, f"the TAP {fd} puts other headers before frames", "open it with IFF_NO_PI | IFF_VNET_HDR")
    return "tap"


def fd_name(fd: int) -> str:
    """The interface of an open TAP or macvtap."""
    name: str = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()
    return name


def _check_socket(fd: int, option: str) -> str:
    import socket
    import stat

    kind = None
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        with socket.socket(fileno=os.dup(fd)) as probe:
            kind = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "packet",
                    socket.SOCK_SEQPACKET: "packet"}.get(socket.SocketKind(probe.type))
    if kind is None:
        raise UserError(option, f"{fd} is neither a TAP nor a socket", "pass a TAP opened with IFF_TAP")
    return kind


# --- setting up -----------------------------------------------------------------------


def set_up(name: str, option: str, *, ip: str | None = None, mask: str | None = None, mac: str | None = None,
           mtu: int | None = None) -> None:
    """Give the host's interface what is not None, and bring it up unless it is."""
    import _socket

    with_socket = _socket.socket(_AF_INET, _SOCK_DGRAM)
    try:
        number = with_socket.fileno()

        def do(request: int, data: bytes, key: str, what: str) -> bytes:
            try:
                answer: bytes = fcntl.ioctl(number, request, _ifreq(name, data))
                return answer
            except OSError as error:
                by_hand = "leave the option out" if key else f"`ip link set {name} up`"
                mend = f"give vmm the capability CAP_NET_ADMIN, or {by_hand}" if error.errno in (1, 13) else ""
                raise UserError(f"{option} {key}" if key else option, f"{name}: cannot {what}: {error.strerror}",
                                mend) from None

        if mtu is not None:
            do(_SIOCSIFMTU, mtu.to_bytes(4, "little"), "mtu=", f"set the MTU to {mtu}")
        if mac is not None:
            do(_SIOCSIFHWADDR, _ARPHRD_ETHER.to_bytes(2, "little") + parse_mac(mac), "host_mac=", "set the MAC address")
        if ip is not None and ":" not in ip:
            do(_SIOCSIFADDR, _sockaddr(ip), "ip=", "set the address")
            do(_SIOCSIFNETMASK, _sockaddr(dotted(mask)), "mask=", "set the network mask")
        elif ip is not None:
            _add_ipv6(name, ip, int(mask or "64"), option)
        flags = int.from_bytes(do(_SIOCGIFFLAGS, b"", "", "read its flags")[16:18], "little")
        if not flags & _IFF_UP:
            do(_SIOCSIFFLAGS, (flags | _IFF_UP).to_bytes(2, "little"), "", "bring it up")
    finally:
        with_socket.close()


def _add_ipv6(name: str, ip: str, prefix: int, option: str) -> None:
    """By netlink: there is no other way for IPv6."""
    try:
        pyroute2: Any = __import__("pyroute2")  # 150 ms: only for this
    except ImportError:
        raise UserError(f"{option} ip=", "an IPv6 address is set with pyroute2, which is not installed",
                        "pip install pyroute2, or set the address yourself on a named TAP") from None
    try:
        with pyroute2.IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            netlink.addr("replace", index=index, address=ip, prefixlen=prefix)
    except (pyroute2.NetlinkError, OSError, IndexError) as error:
        raise UserError(f"{option} ip=", f"{name}: cannot set the address: {error}") from None


def mac_of(name: str) -> str | None:
    """The interface's own MAC address."""
    return _sysfs(name, "address") or None


def parse_mac(text: str) -> bytes:
    """Six bytes of ``52:54:00:12:34:56``. Raises ValueError."""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(1 <= len(part) <= 2 for part in parts):
        raise ValueError(f"'{text}' is not like 52:54:00:12:34:56")
    try:
        return bytes(int(part, 16) for part in parts)
    except ValueError:
        raise ValueError(f"'{text}' is not like 52:54:00:12:34:56") from None


def dotted(mask: str | None) -> str:
    """``24`` or ``255.255.255.0`` (the default) as the latter. Raises ValueError."""
    if mask is None:
        return "255.255.255.0"
    if mask.isdecimal():
        if int(mask) > 32:
            raise ValueError(f"{mask} is more than 32 bits")
        bits = (0xFFFFFFFF << (32 - int(mask))) & 0xFFFFFFFF
        return ".".join(str(byte) for byte in bits.to_bytes(4, "big"))
    number = int.from_bytes(parse_ip(mask), "big")
    if ":" in mask or (number | number - 1) != 0xFFFFFFFF:
        raise ValueError(f"'{mask}' is no network mask like 255.255.255.0 or 24")
    return mask


def parse_ip(text: str) -> bytes:
    """4 or 16 bytes of an address. Raises ValueError."""
    import _socket

    try:
        packed: bytes = _socket.inet_pton(10 if ":" in text else _AF_INET, text)
        return packed
    except OSError:
        raise ValueError(f"'{text}' is no IP address") from None


def _sockaddr(ip: str) -> bytes:
    return _AF_INET.to_bytes(2, "little") + bytes(2) + parse_ip(ip) + bytes(8)


def _ifreq(name: str, data: bytes) -> bytes:
    return name.encode().ljust(16, b"\0") + data.ljust(24, b"\0")


def _sysfs(name: str, attribute: str) -> str:
    try:
        with open(f"{_NET}/{name}/{attribute}") as file:
            return file.read().strip()
    except OSError:
        return ""


def _close(fds: list[Any]) -> None:
    while fds:
        os.close(fds.pop())
