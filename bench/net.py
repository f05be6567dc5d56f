# SPDX-License-Identifier: Apache-2.0
"""Networks: iperf3 and ping between the host and a guest of ours, QEMU's q35 and microvm, over a TAP each.

One queue pair by the clock that counts instructions; four pairs, and vhost, by the wall clock too. With vhost=on it is
the host's kernel that carries the frames, for all alike.
"""

from __future__ import annotations

import shutil
from typing import Any

import io_guest
from io_compare import Contest
from io_lab import IoBench, taps

UNITS = {"TCP to host": "Mbit/s", "TCP to guest": "Mbit/s", "64 B to host": "packets/s", "64 B to guest": "packets/s",
         "ping": "us"}  # fmt: skip


def words(name: str, n: int, pairs: int, vhost: bool) -> list[str]:
    """Arguments for the network device on the TAP number `n`."""
    on = "on" if vhost else "off"
    if name == "vmm":
        return ["--net", f"tap=tap{n},num_queues={2 * pairs},vhost={on}"]
    backend = f"tap,id=n0,ifname=tap{n},script=no,downscript=no,vhost={on}"
    device = "virtio-net-pci,netdev=n0,romfile=,disable-legacy=on"
    if pairs > 1:
        backend, device = f"{backend},queues={pairs}", f"{device},mq=on,vectors={2 * pairs + 2}"
    return ["-netdev", backend, "-device", device]


def commands(pairs: int, counted: bool, quick: bool) -> list[tuple[str, str]]:
    """(row, command). Counted: so many bytes or packets; by the wall clock: so many seconds."""
    streams = f" -P {pairs}" if pairs > 1 else ""
    tcp, udp, pings = (" -n 96M", " -k 20000", 1000) if counted else (" -t 1", " -t 1", 300)
    if quick and counted:
        tcp, udp, pings = " -n 8M", " -k 2000", 100
    host = " -c 10.9.{n}.1"
    return [
        ("TCP to host", "iperf" + host + tcp + streams),
        ("TCP to guest", "iperf -R" + host + tcp + streams),
        ("64 B to host", "iperf -u -l 64 -b 0 -w 8M" + host + udp + streams),
        # With losses the sender does not know how many have arrived: always so many seconds.
        ("64 B to guest", "iperf -R -u -l 64 -b 0 -w 8M" + host + " -t 1" + streams),
        ("ping", f"flood {pings}" + host[3:]),
    ]


def read(step: dict[str, Any]) -> dict[str, float]:
    key = step["key"]
    if key == "ping":
        found = io_guest.parse_ping(step["output"])
        return {key: found["rtt_us"]} if "rtt_us" in found and not found["lost"] else {}
    sums = io_guest.parse_iperf(step["output"])
    got = sums.get("sum_received", {})
    if not got.get("seconds"):
        return {}
    if key.startswith("TCP"):
        return {key: got["bits_per_second"] / 1e6}
    return {key: (got["packets"] - got["lost_packets"]) / got["seconds"]}


def run(quick: bool, only: str = "", rounds: int = 5) -> tuple[str, dict[str, Any]]:
    iperf3 = shutil.which("iperf3") or "/usr/bin/iperf3"
    bench = IoBench(("iperf3", "ping", "ethtool"), (iperf3, "-s"))
    try:
        bench.pack(["--net", "tap=tap0"])
        contest = Contest(bench, quick, only, rounds)
        contest.units = UNITS
        contest.limits = {"vhost=on": 0.95}

        def vm(name: str, n: int, pairs: int, vhost: bool) -> dict[str, Any]:
            setup = [f"net 10.9.{n}.2/24 10.9.{n}.1 {pairs}"]
            return bench.vm(name, words(name, n, pairs, vhost), pairs, setup)

        for vhost in (False, True):
            # Datagrams with vhost gave no result in such a lab (not known why).
            rows = [entry for entry in commands(1, True, quick) if not vhost or not entry[0].startswith("64 B")]
            contest.counted(
                f"counted, 1 queue pair, vhost={'on' if vhost else 'off'}: ",
                lambda name, n, v=vhost: vm(name, n, 1, v),  # type: ignore[misc]
                rows,
                read,
                taps(1),
            )
        for pairs, vhost in ((4, False), (1, True), (4, True)):
            title = f"{pairs} queue pair{'s' if pairs > 1 else ''}, vhost={'on' if vhost else 'off'}"
            contest.alternating(
                f"wall, {title}: ",
                lambda name, n, p=pairs, v=vhost: vm(name, n, p, v),  # type: ignore[misc]
                commands(pairs, False, quick),
                read,
                taps(pairs),
            )
        return contest.report("net", f"Network, Linux {bench.kernel_version}")
    finally:
        bench.close()
