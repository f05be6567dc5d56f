# SPDX-License-Identifier: Apache-2.0
"""The /init scripts of our guests, and the tiny program that stamps the moment when init starts.

The command loop (``LOOP``) talks over the console, which the kernel may write to as well.  Output therefore
travels as gzip (which carries a checksum) in base64 between two marker lines that hold a random token
from the kernel command line; the host asks again ("again") when the checksum does not fit.
"""

from __future__ import annotations

import struct

# dmesg -n 1 leaves only panics on the console; the kernel's log stays readable with dmesg.
_SETUP = r"""
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
hostname @HOSTNAME@
while read -r module options; do
    insmod "/lib/modules/$module" $options || echo "vmm-testkit: module $module did not load"
done < /etc/modules.load
ip link set lo up
"""

LOOP = r"""
mkdir /run/testkit
stty -echo
dmesg -n 1
token=vmm-testkit
read -r words < /proc/cmdline
for word in $words; do
    case $word in testkit=*) token=${word#testkit=} ;; esac
done
send() {
    printf '\n%s begin %s\n' "$token" "$1"
    gzip -c /run/testkit/output | base64
    printf '\n%s end %s %s\n' "$token" "$1" "$status"
}
printf '\n%s ready\n' "$token"
command=
while read -r id word; do
    case $word in
    run)
        echo "$command" | base64 -d > /run/testkit/command
        command=
        (cd /root && exec sh /run/testkit/command) < /dev/null > /run/testkit/output 2>&1
        status=$?
        send "$id"
        ;;
    again) send "$id" ;;
    poweroff) poweroff -f ;;
    reboot) reboot -f ;;
    *) command=$command$word ;;
    esac
done
poweroff -f
"""

SHELL = r"""
echo "The shell of a guest that lives in memory only. Leave it with: exit"
cd /root
setsid cttyhack sh
poweroff -f
"""

COMMAND = r"""
dmesg -n 1
cd /root
sh /etc/testkit-command
echo "vmm-exit-status: $?"
poweroff -f
"""

# The root file system is the word root= of the kernel's command line; a disk may take a moment to appear.
ROOT = r"""
read -r words < /proc/cmdline
root=/dev/vda flags=rw init=/sbin/init
for word in $words; do
    case $word in
    root=*) root=${word#root=} ;;
    init=*) init=${word#init=} ;;
    ro) flags=ro ;;
    esac
done
n=0
until [ -b "$root" ] || [ $n = 500 ]; do usleep 20000; n=$((n + 1)); done
mkdir /root-disk
if mount -t ext4 -o $flags "$root" /root-disk; then
    for directory in dev proc sys run; do
        umount /dev/pts /dev/shm 2> /dev/null
        mount --move /$directory /root-disk/$directory
    done
    exec switch_root /root-disk $init
fi
echo "vmm-testkit: $root does not mount as root file system"
poweroff -f
"""

# After these, init must never return: the kernel panics when process 1 ends.
_END = r"""
echo "vmm-testkit: init has nothing left to do"
while :; do sleep 3600; done
"""

_BODIES = {"loop": LOOP, "shell": SHELL, "command": COMMAND, "root": ROOT}


def init_script(mode: str, hostname: str, stamp: bool) -> str:
    """The text of /init for one of the modes "loop", "shell", "command" and "root"."""
    first, ready = ("/sbin/stamp\n", "/sbin/stamp-ready\n") if stamp else ("", "")
    return "#!/bin/sh\n" + first + _SETUP.replace("@HOSTNAME@", hostname) + ready + _BODIES[mode] + _END


def stamp_program(port: int = 0x80, value: int = 0x42) -> bytes:
    """An x86-64 ELF executable that writes one byte to one I/O port and exits with 0.

    It asks for the port with ioperm(2), for /dev/port is not configured in Debian's cloud kernel.
    """
    code = (
        b"\xb8\xad\x00\x00\x00"  # mov eax, 173 (ioperm)
        + b"\xbf" + struct.pack("<I", port)  # mov edi, port
        + b"\xbe\x01\x00\x00\x00"  # mov esi, 1
        + b"\xba\x01\x00\x00\x00"  # mov edx, 1
        + b"\x0f\x05"  # syscall
        + b"\x85\xc0\x75\x08"  # test eax, eax; jnz exit
        + b"\xba" + struct.pack("<I", port)  # mov edx, port
        + b"\xb0" + bytes([value])  # mov al, value
        + b"\xee"  # out dx, al
        + b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"  # exit: mov eax, 60; xor edi, edi; syscall
    )  # fmt: skip
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    # ELF64 header (ET_EXEC, EM_X86_64) and one PT_LOAD segment, readable and executable.
    elf = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return elf + segment + code
