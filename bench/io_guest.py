# SPDX-License-Identifier: Apache-2.0
"""The guest of the disk and network benchmarks: an initramfs that runs one command per line of its console.

Commands are scripts of its own (``blk``, ``tcp`` …), so that a line is short: a serial port is slow. What they
print is short for the same reason; :func:`parse` reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel

READY = "bench-ready"
BEGIN, END = "bench-begin", "bench-end"

INIT = rf"""#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
while read -r module options; do
    insmod "/lib/modules/$module" $options || echo "bench: module $module did not load"
done < /etc/modules.load
ip link set lo up
stty -echo
dmesg -n 1
echo {READY}
while read -r line; do
    echo {BEGIN}
    $line
    echo {END} $?
done
poweroff -f
"""

#: fio ends after so many requests (``count``) or after so many milliseconds (``time``).
BLK = r"""#!/bin/sh
# blk KIND SIZE JOBS count|time LIMIT: fio's terse line
case $4 in
count) limit="--number_ios=$5 --io_size=100g" ;;
time) limit="--time_based=1 --runtime=$5ms" ;;
esac
fio --name="$1" --rw="$1" --bs="$2" --numjobs="$3" $limit --filename=/dev/vda --ioengine=libaio --direct=1 \
    --iodepth=32 --norandommap=1 --gtod_reduce=1 --thread=1 --group_reporting=1 --offset_increment=16m \
    --cpus_allowed=0-$(($3 - 1)) --cpus_allowed_policy=split --output-format=terse --terse-version=3 2>&1 |
    cut -d ';' -f 1-9,47-50
"""

# iperf3's report without its intervals; of that what counts.
NET = r"""#!/bin/sh
# net ADDRESS/LENGTH HOST: bring eth0 up
sysctl -q -w net.core.rmem_max=67108864 net.core.wmem_max=67108864
ip addr add "$1" dev eth0
ip link set eth0 up
n=0
until ping -c 1 -W 1 "$2" > /dev/null || [ $n = 20 ]; do n=$((n + 1)); done
[ "$3" = 1 ] || ethtool -L eth0 combined "$3" 2> /dev/null || :
"""
IPERF = r"""#!/bin/sh
# iperf WORDS…; the server serves one at a time, and may not have done with the last
for _ in 1 2 3; do
    timeout 20 iperf3 -J -i 0 "$@" > /run/iperf
    grep '"error"' /run/iperf || break
    sleep 1
done
sed -n '/"end"/,$p' /run/iperf | sed -n -e '/"sum/,/}/p' | tr -d ' \t\n'
echo
"""
PING = r"""#!/bin/sh
# flood COUNT HOST
/usr/bin/ping -f -q -c "$1" "$2" | tail -n 2
"""


def initramfs(target: Path, kernel: Kernel, programs: tuple[str, ...]) -> Path:
    """Make the guest's initramfs at `target`."""
    scripts = {"bin/blk": BLK, "bin/net": NET, "bin/iperf": IPERF, "bin/flood": PING}
    return Initramfs(
        kernel,
        modules=("virtio_pci", "virtio_blk", "virtio_net"),
        programs=programs,
        files={name: text.encode() for name, text in scripts.items()},
        init=INIT,
        stamp=False,
    ).write(target)


def parse_fio(output: str) -> list[dict[str, float]]:
    """[{"iops", "mib_s"}] of fio's terse lines (version 3), cut to the fields that are used."""
    found = []
    for line in output.split("\n"):
        cells = line.strip().split(";")
        if len(cells) < 13 or cells[0] != "3":
            continue
        at = 5 if float(cells[5]) else 9  # total KiB, KiB/s, IOPS, ms: of reads, or of writes
        found.append({"iops": float(cells[at + 2]), "mib_s": float(cells[at + 1]) / 1024})
    return found


def parse_ping(output: str) -> dict[str, float]:
    """{"rtt_us", "sent", "lost"} of ping's summary."""
    result: dict[str, float] = {}
    for line in output.split("\n"):
        if "packets transmitted" in line:
            words = line.split()
            result |= {"sent": int(words[0]), "lost": int(words[0]) - int(words[3])}
        elif line.startswith("rtt"):
            result["rtt_us"] = 1000 * float(line.split("=")[1].split("/")[1])
    return result


def parse_iperf(output: str) -> dict[str, Any]:
    """Sums of iperf3's report: sender's and receiver's."""
    import json
    import re

    return {name: json.loads(text) for name, text in re.findall(r'"(sum\w*)":(\{[^}]*\})', output)}
