# SPDX-License-Identifier: Apache-2.0
"""What a Debian root file system of ours has beside its packages, and what it does without.

A guest on it runs systemd. The first virtio console, and the first serial port if the kernel's ``console=`` names it,
have a login prompt; root has no password. Otherwise by a word of the kernel's command line:

    testkit=TOKEN             the serial port is for the command loop of ``DebianGuest``
    testkit.command=BASE64    run that with sh on /dev/console, print ``vmm-exit-status: N``, power off
"""

from __future__ import annotations

from vmm_testkit.arch import Arch
from vmm_testkit.guest_init import LOOP

_REMOVED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/perl",
    "usr/share/perl5", "usr/share/zsh", "usr/share/gcc", "usr/share/bash-completion", "usr/lib/udev/hwdb.bin",
    "usr/lib/udev/hwdb.d", "usr/lib/python3", "usr/lib/python3.11", "usr/lib/@TRIPLET@/perl",
    "usr/lib/@TRIPLET@/gconv", "var/cache/apt", "var/cache/debconf", "var/lib/apt", "var/log/bootstrap.log",
    "var/log/dpkg.log", "var/lib/dpkg/info", "var/lib/dpkg/status-old",
)  # fmt: skip

#: Units that cost boot time and do nothing for a guest that lives for minutes.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service", "systemd-networkd-wait-online.service", "systemd-pcrphase-initrd.service",
    "systemd-pcrphase-sysinit.service", "systemd-pcrphase.service", "systemd-timesyncd.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "getty@tty1.service",
    "modprobe@drm.service", "modprobe@dm_mod.service", "modprobe@configfs.service",
    "modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service", "kmod-static-nodes.service",
    "systemd-modules-load.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount",
    "systemd-pstore.service", "dev-mqueue.mount", "dev-hugepages.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
)  # fmt: skip

_LOOP_UNIT = """\
[Unit]
Description=Command loop of vmm-testkit
ConditionKernelCommandLine=testkit
After=multi-user.target network.target
[Service]
ExecStart=/bin/sh /usr/lib/vmm-testkit/loop
Environment=HOME=/root TERM=linux
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/@CONSOLE@
KillMode=process
[Install]
WantedBy=multi-user.target
"""

_COMMAND_UNIT = """\
[Unit]
Description=One command, then power off
ConditionKernelCommandLine=testkit.command
After=systemd-user-sessions.service network.target
[Service]
Type=idle
ExecStart=/bin/sh /usr/lib/vmm-testkit/command
Environment=HOME=/root TERM=linux
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
[Install]
WantedBy=multi-user.target
"""

_COMMAND = """\
dmesg -n 1
cd /root
for word in $(cat /proc/cmdline); do
    case $word in testkit.command=*) echo "${word#testkit.command=}" | base64 -d > /run/testkit-command ;; esac
done
sh /run/testkit-command
echo "vmm-exit-status: $?"
systemctl --no-block poweroff
"""

def _login_unless(*words: str) -> str:
    """A drop-in for a login prompt that leaves its terminal to somebody else."""
    return "[Unit]\n" + "".join(f"ConditionKernelCommandLine=!{word}\n" for word in words)


# For what the kernel's ip= says nothing of: systemd-network-generator makes of it 91-default.network.
_NETWORK = """\
[Match]
Type=ether
[Network]
DHCP=yes
LinkLocalAddressing=ipv6
"""

_UNITS = "etc/systemd/system"


def removed(arch: Arch) -> tuple[str, ...]:
    """Paths to remove from the tree: nothing that runs there needs them."""
    return tuple(path.replace("@TRIPLET@", arch.triplet) for path in _REMOVED)


def root_files(hostname: str, arch: Arch) -> dict[str, str]:
    """Path -> content of the files to add."""
    loop = LOOP.replace("poweroff -f", "systemctl poweroff; sleep 1000").replace(
        "reboot -f", "systemctl reboot; sleep 1000"
    )
    return {
        "etc/hostname": f"{hostname}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost\n",
        "etc/fstab": "/dev/root / ext4 defaults 0 0\n",
        "etc/machine-id": "5eed" * 8 + "\n",
        "etc/systemd/network/95-default.network": _NETWORK,
        "etc/systemd/journald.conf.d/testkit.conf": "[Journal]\nStorage=volatile\nReadKMsg=no\n",
        "etc/systemd/system.conf.d/testkit.conf": "[Manager]\nDefaultTimeoutStopSec=20s\nShowStatus=no\n",
        "etc/udev/rules.d/80-hvc-login.rules": 'SUBSYSTEM=="tty", KERNEL=="hvc0", TAG+="systemd", '
        'ENV{SYSTEMD_WANTS}+="serial-getty@hvc0.service"\n',
        f"{_UNITS}/testkit-loop.service": _LOOP_UNIT.replace("@CONSOLE@", arch.console),
        f"{_UNITS}/testkit-command.service": _COMMAND_UNIT,
        f"{_UNITS}/serial-getty@{arch.console}.service.d/testkit.conf": _login_unless("testkit", "testkit.command"),
        f"{_UNITS}/serial-getty@hvc0.service.d/testkit.conf": _login_unless("testkit.command"),
        "usr/lib/vmm-testkit/loop": loop,
        "usr/lib/vmm-testkit/command": _COMMAND,
    }


def root_links() -> dict[str, str]:
    """Path -> target of the symbolic links to add."""
    links = {f"{_UNITS}/{unit}": "/dev/null" for unit in _MASKED}
    for unit in ("testkit-loop.service", "testkit-command.service"):
        links[f"{_UNITS}/multi-user.target.wants/{unit}"] = f"/{_UNITS}/{unit}"
    links[f"{_UNITS}/multi-user.target.wants/systemd-networkd.service"] = (
        "/lib/systemd/system/systemd-networkd.service"
    )
    links[f"{_UNITS}/sysinit.target.wants/systemd-network-generator.service"] = (
        "/lib/systemd/system/systemd-network-generator.service"
    )
    links[f"{_UNITS}/default.target"] = "/lib/systemd/system/multi-user.target"
    return links
