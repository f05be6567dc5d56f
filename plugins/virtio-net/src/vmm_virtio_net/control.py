# SPDX-License-Identifier: Apache-2.0
"""Feature bits, device configuration and control queue of the network device (virtio 1.2 §5.1.3, .4, .6.5)."""

from __future__ import annotations

from vmmcore.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.virtio import Chain, Queue

    from .device import VirtioNet

# virtio 1.2 §5.1.3; the USO bits are of virtio 1.3
CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, MTU, MAC = (1 << n for n in (0, 1, 2, 3, 5))
GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO = (1 << n for n in (7, 8, 9, 10))
HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO = (1 << n for n in (11, 12, 13, 14))
MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA = (1 << n for n in range(15, 21))
GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR = (1 << n for n in (21, 22, 23))
GUEST_USO4, GUEST_USO6, HOST_USO = (1 << n for n in (54, 55, 56))

#: bit -> the bits that it needs (§5.1.3.1)
REQUIRES = {
    7: GUEST_CSUM, 8: GUEST_CSUM, 10: GUEST_CSUM, 54: GUEST_CSUM, 55: GUEST_CSUM,
    11: CSUM, 12: CSUM, 14: CSUM, 56: CSUM,
    2: CTRL_VQ, 18: CTRL_VQ, 19: CTRL_VQ, 20: CTRL_VQ, 21: CTRL_VQ, 22: CTRL_VQ, 23: CTRL_VQ,
}
#: (ECN bit, the two of which it needs one)
ECN = ((9, 7, 8), (13, 11, 12))

# linux/if_tun.h
TUN_CSUM, TUN_TSO4, TUN_TSO6, TUN_TSO_ECN, TUN_UFO, TUN_USO = 1, 2, 4, 8, 0x10, 0x60
TUN_ALL = TUN_CSUM | TUN_TSO4 | TUN_TSO6 | TUN_TSO_ECN | TUN_UFO | TUN_USO
_TUN = {GUEST_CSUM: TUN_CSUM, GUEST_TSO4: TUN_TSO4, GUEST_TSO6: TUN_TSO6, GUEST_ECN: TUN_TSO_ECN,
        GUEST_UFO: TUN_UFO, GUEST_USO4: 0x20, GUEST_USO6: 0x40}
#: what CTRL_GUEST_OFFLOADS_SET may switch
_OFFLOADS = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6

S_LINK_UP, S_ANNOUNCE = 1, 2
_OK, _ERR = b"\0", b"\1"
_STATUS_OFFSET = 6
_MAX_COMMAND = 64 << 10
#: a TAP compares with so many addresses of single interfaces (FLT_EXACT_COUNT of drivers/net/tun.c)
_EXACT = 8


def offer(options: dict[str, Any], host: int) -> int:
    """The feature bits to offer for a host side that knows the TUN_F_* in `host`."""
    bits = MAC | STATUS | MRG_RXBUF | CTRL_VQ | CTRL_RX | CTRL_RX_EXTRA | CTRL_VLAN | CTRL_MAC_ADDR | GUEST_ANNOUNCE
    if options["mtu"]:
        bits |= MTU
    if options["pairs"] > 1:
        bits |= MQ
    if not (options["csum"] and host & TUN_CSUM):
        return bits
    bits |= CSUM | GUEST_CSUM | CTRL_GUEST_OFFLOADS
    if options["tso"] and host & TUN_TSO4:
        bits |= GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN
    if options["ufo"] and host & TUN_UFO:
        bits |= GUEST_UFO | HOST_UFO
    if options["ufo"] and host & TUN_USO == TUN_USO:
        bits |= GUEST_USO4 | GUEST_USO6 | HOST_USO
    return bits


def tun_flags(offloads: int) -> int:
    """TUN_F_* for a set of GUEST_* bits: those that the kernel takes in this combination."""
    if not offloads & GUEST_CSUM:
        return 0
    flags = sum(flag for bit, flag in _TUN.items() if offloads & bit)
    if not flags & (TUN_TSO4 | TUN_TSO6):
        flags &= ~TUN_TSO_ECN
    return flags if flags & TUN_USO == TUN_USO else flags & ~TUN_USO


class Control:
    """What a driver sets through the control queue, and the configuration space that shows some of it."""

    def __init__(self, device: VirtioNet, mac: bytes) -> None:
        self.device, self.own_mac = device, mac
        self.index = -1  # of the control queue; -1: none
        self.kept = False
        self.status = S_LINK_UP
        self.filtered = False
        self._reset(0)

    def _reset(self, features: int) -> None:
        self.mac = self.own_mac
        self.pairs = 1
        self.offloads = features & _OFFLOADS
        self.modes = [0] * 6  # PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST
        self.table: list[bytes] = [b"", b""]  # unicast and multicast addresses, 6 bytes each
        self.vlans: set[int] = set()
        self.table_set = False

    def begin(self, queue: Queue | None, features: int) -> None:
        """The device starts: anew, unless it goes on where it was."""
        # A reset of single rings (RING_RESET) is no new start either: commands have been handled.
        if not self.kept and (queue is None or not queue.base & 0x7FFF):
            changed = self.mac != self.own_mac
            self._reset(features)
            self.set_status(S_ANNOUNCE, False, notify=False)
            if changed:
                self._show(0, self.mac)
        self.kept = False

    # --- configuration space ---

    def config(self) -> bytes:
        mtu = self.device.options["mtu"] or 0
        return b"".join((self.mac, self.status.to_bytes(2, "little"), self.device.pairs.to_bytes(2, "little"),
                         mtu.to_bytes(2, "little")))

    def _show(self, offset: int, data: bytes, notify: bool = False) -> None:
        self.device.update_config(offset, data, notify)

    def set_status(self, bit: int, on: bool, notify: bool = True) -> None:
        status = self.status | bit if on else self.status & ~bit
        if status != self.status:
            self.status = status
            self._show(_STATUS_OFFSET, status.to_bytes(2, "little"), notify)

    # --- commands ---

    def answer(self, chain: Chain) -> bytes:
        """Carry out one command: its ``ack`` byte."""
        if sum(map(len, chain.readable)) > _MAX_COMMAND:
            return _ERR
        message = chain.read()
        if len(message) < 2:
            return _ERR
        kind, command, data = message[0], message[1], message[2:]
        handlers = (self._rx_mode, self._mac, self._vlan, self._announce_ack, self._pairs, self._guest_offloads)
        if kind >= len(handlers):
            return _ERR
        return _OK if handlers[kind](command, data, self.device.features) else _ERR

    def _rx_mode(self, command: int, data: bytes, features: int) -> bool:
        known = 6 if features & CTRL_RX_EXTRA else 2
        if not features & CTRL_RX or command >= known or len(data) != 1 or data[0] > 1:
            return False
        self.modes[command] = data[0]
        self.device.apply_filter()
        return True

    def _mac(self, command: int, data: bytes, features: int) -> bool:
        if command == 0:
            if not features & CTRL_RX:
                return False
            tables = []
            for _ in range(2):
                count = int.from_bytes(data[:4], "little")
                if len(data) < 4 or count > len(data) // 6 or len(data) < 4 + 6 * count:
                    return False
                tables.append(data[4:4 + 6 * count])
                data = data[4 + 6 * count:]
            if data:
                return False
            self.table, self.table_set = tables, True
        elif command == 1 and features & CTRL_MAC_ADDR and len(data) == 6:
            self.mac = data
            self._show(0, data)
        else:
            return False
        self.device.apply_filter()
        return True

    def _vlan(self, command: int, data: bytes, features: int) -> bool:
        # Filtering is best effort (§5.1.6.5.3): all VLANs pass. What is set is kept.
        vlan = int.from_bytes(data, "little")
        if not features & CTRL_VLAN or command > 1 or len(data) != 2 or vlan > 4095:
            return False
        (self.vlans.discard if command else self.vlans.add)(vlan)
        return True

    def _announce_ack(self, command: int, data: bytes, features: int) -> bool:
        if not features & GUEST_ANNOUNCE or command or data:
            return False
        self.set_status(S_ANNOUNCE, False, notify=False)
        return True

    def _pairs(self, command: int, data: bytes, features: int) -> bool:
        count = int.from_bytes(data, "little")
        if not features & MQ or command or len(data) != 2 or not 1 <= count <= self.device.pairs:
            return False
        queues = self.device.queues
        if not all(queues[n].active for n in range(2 * count)):  # §5.1.6.5.5.2: only queues that are enabled
            return False
        self.pairs = count
        self.device.enable_pairs(count)
        return True

    def _guest_offloads(self, command: int, data: bytes, features: int) -> bool:
        offloads = int.from_bytes(data, "little")
        if not features & CTRL_GUEST_OFFLOADS or command or len(data) != 8 or offloads & ~(features & _OFFLOADS):
            return False
        if offloads & ~GUEST_CSUM and not offloads & GUEST_CSUM:
            return False
        self.offloads = offloads
        self.device.apply_offloads()
        return True

    # --- filter ---

    @property
    def all_multicast(self) -> bool:
        return bool(self.modes[1])

    def addresses(self) -> bytes:
        """What a TAP's filter is to let pass, 6 bytes each; empty: everything.

        The TAP can compare with few addresses of single interfaces, and only hash those of groups.
        """
        promiscuous, _, all_unicast, _, _, _ = self.modes
        self.filtered = self.table_set and not promiscuous and not all_unicast and len(self.table[0]) // 6 < _EXACT - 1
        if not self.filtered:
            return b""
        return self.mac + b"\xff" * 6 + self.table[0] + self.table[1]

    # --- saved state ---

    def save(self) -> dict[str, Any]:
        return {"mac": self.mac, "status": self.status, "pairs": self.pairs, "offloads": self.offloads,
                "modes": list(self.modes), "unicast": self.table[0], "multicast": self.table[1],
                "table_set": self.table_set, "vlans": sorted(self.vlans)}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that no driver can have made."""
        try:
            mac, unicast, multicast = (bytes(memoryview(state[key])) for key in ("mac", "unicast", "multicast"))
            pairs, offloads, modes, status = state["pairs"], state["offloads"], list(state["modes"]), state["status"]
            if len(mac) != 6 or len(unicast) % 6 or len(multicast) % 6 or not 1 <= pairs <= self.device.pairs or \
                    offloads & ~_OFFLOADS or len(modes) != 6 or status & ~(S_LINK_UP | S_ANNOUNCE):
                raise ValueError("impossible values")
            vlans = {int(vlan) for vlan in state["vlans"]}
        except (KeyError, TypeError, ValueError) as error:
            raise VmmError(f"{self.device.id}: saved state is not usable: {error}") from None
        self.mac, self.table, self.pairs, self.offloads, self.modes = mac, [unicast, multicast], pairs, offloads, modes
        self.table_set, self.vlans, self.kept = bool(state["table_set"]), vlans, True
        self.status = status
        self._show(0, mac + status.to_bytes(2, "little"))
