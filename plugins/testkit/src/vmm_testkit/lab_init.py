# SPDX-License-Identifier: Apache-2.0
"""What runs inside the lab's emulated host (L1): its modules, its /init, and the script for one job.

Stage 1 (/init, cached with the initramfs) mounts the outer machine's root by 9p, lays a RAM overlay over it
and makes that the root.  Stage 2 (one per run, in a second archive appended to the first) starts the job.
The job's standard output and error are FIFOs, each emptied into a virtio-serial port by ``cat``; a third port
carries the exit status.  FIFOs, because a port can be opened once only and `echo x > /dev/stderr` opens again.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

from vmm_testkit.arch import Arch

#: Needed for the root and the pipes to the outside.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
#: For jobs; loaded when the kernel has them.
OPTIONAL_MODULES = (
    "kvm-amd", "kvm-intel", "vfio-pci", "vfio_iommu_type1", "tun", "vhost_net", "vhost_vsock", "macvtap", "bridge",
    "dummy", "loop", "virtio_blk", "ext4",
)  # fmt: skip

#: The virtio-serial ports; QEMU calls them vmm.NAME.
PORTS = ("stdout", "stderr", "status")

_TUNING = "trans=virtio,version=9p2000.L,msize=512000"

STAGE1 = rf"""#!/bin/sh
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module options; do
    case $module in kvm_intel.ko) grep -qw vmx /proc/cpuinfo || continue ;; esac
    case $module in kvm_amd.ko) grep -qw svm /proc/cpuinfo || continue ;; esac
    insmod "/lib/modules/$module" $options 2> /dev/null
done < /etc/modules.load
mkdir -p /lower /ram /new
mount -t 9p -o ro,cache=loose,{_TUNING} root /lower || exec echo "lab: the outer root does not mount"
mount -t tmpfs -o size=90% ram /ram
mkdir /ram/upper /ram/work
mount -t overlay -o lowerdir=/lower,upperdir=/ram/upper,workdir=/ram/work overlay /new
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
mount --move /proc /new/proc
mount --move /sys /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm /new/dev/net
mount -t devpts -o mode=620,ptmxmode=666 pts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t tmpfs -o mode=755 run /new/run
mkdir /new/run/lab /new/run/lock
mkdir -m 1777 /new/run/tmp
chmod 666 /new/dev/kvm 2> /dev/null
ln -sf /proc/self/fd /new/dev/fd
for pair in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${{pair%:*}}" "/new/dev/${{pair#*:}}"; done
cp /bin/busybox /lab-stage2 /lab-job /new/run/lab/
ip link set lo up
exec switch_root /new /run/lab/busybox sh /run/lab/lab-stage2
"""


# KVM patches the running kernel's code (static keys) whenever the first VM appears, the last one goes, and at the
# like turns of a vCPU's local APIC. QEMU's TCG now and then goes on running a breakpoint that such a patch has long
# removed, for ever and with interrupts off: the lab stops. Two VMs that are never run keep those keys as they are.
HOLD_KEYS = """
import fcntl, os, signal
kvm = os.open("/dev/kvm", os.O_RDWR)
for irqchip in (True, False):
    vm = fcntl.ioctl(kvm, 0xAE01, 0)  # KVM_CREATE_VM
    if irqchip:
        fcntl.ioctl(vm, 0xAE60, 0)  # KVM_CREATE_IRQCHIP
    vcpu = fcntl.ioctl(vm, 0xAE41, 0)  # KVM_CREATE_VCPU
    if irqchip:
        sregs = bytearray(312)
        fcntl.ioctl(vcpu, 0x8138AE83, sregs)  # KVM_GET_SREGS
        sregs[272:280] = (0xFEE00000).to_bytes(8, "little")  # apic_base without its enable bit
        fcntl.ioctl(vcpu, 0x4138AE84, bytes(sregs))  # KVM_SET_SREGS
signal.pause()
"""


def stage2(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    *,
    nonce: str,
    shared: str | None,
    modules: str,
    tty: str,
    arch: Arch,
    outer: Sequence[str] = (),
    size: tuple[int, int] = (24, 80),
    beats: int = 0,
) -> tuple[str, str]:
    """The scripts (stage 2, job) for one run.

    ``nonce`` ends the two output streams and is the first word of the status line. ``shared`` is the
    directory of the second, writable 9p share; ``modules`` the L1 kernel's module directory as seen
    outside; ``tty`` the job's terminal (``""``: FIFOs and no standard input), ``size`` its rows and columns.
    ``outer``: directories of the outer machine to see here, where the root is another tree.
    The first ``beats`` CPUs each write a line to the lab's console every ten seconds, to show that they live.
    """
    quote = shlex.quote
    lines = [
        "b=/run/lab/busybox",
        'stop() { $b sync; $b echo "$nonce $1" > "$status_port"; $b poweroff -f; }',
    ]
    lines += ["for port in /sys/class/virtio-ports/*; do", 'read -r name < "$port/name"']
    lines += ['case $name in vmm.*) eval "${name#vmm.}_port=/dev/${port##*/}" ;; esac', "done"]
    lines += [f"nonce={nonce}"]
    if outer:
        lines += ["o=/run/lab/outer n=0", "$b mkdir -p $o /run/lab/upper"]
        lines += [f"$b mount -t 9p -o ro,cache=loose,{_TUNING} outer $o || stop lab-error:outer"]
        lines += ["$b mount -t tmpfs -o size=90% ram /run/lab/upper"]
        # Through links: mount's options have no way to write every name.
        lines += ['lend() { n=$((n + 1)); d=/run/lab/upper/$n; $b mkdir -p $d/upper $d/work "$1"; $b ln -s "$o$1" $d/lower']
        lines += ['$b mount -t overlay -o lowerdir=$d/lower,upperdir=$d/upper,workdir=$d/work overlay "$1"; }']
        lines += [f"lend {quote(path)}" for path in outer]
    version = modules.rstrip("/").rpartition("/")[2]
    # modprobe looks in /lib/modules; where the outer machine has none of this version, lend it ours.
    lend = f"$b ln -s {quote(modules)} /lib/modules/{version}"
    lines += [f"$b mkdir -p /lib/modules; [ -e /lib/modules/{version} ] || {lend}"]
    if shared:
        lines += [
            f"$b mkdir -p {quote(shared)}",
            f"$b mount -t 9p -o cache=mmap,{_TUNING} out {quote(shared)} || stop lab-error:out",
        ]
    hold = f"{quote(sys.executable)} -I -S -c {quote(HOLD_KEYS)} < /dev/null > /dev/null 2>&1 &"
    if arch.name == "x86_64":
        lines += [f"[ ! -e /dev/kvm ] || {hold}"]
    for cpu in range(beats):
        loop = f"while echo lab-beat {cpu}; do $0 sleep 10; done"
        lines += [f"$b taskset {1 << cpu:x} $b sh -c '{loop}' $b < /dev/null > /dev/{arch.console} 2>&1 &"]
    if tty:
        # In one session: the terminal forgets its size when the last file on it is closed.
        resize = f"$0 stty rows {size[0]} cols {size[1]}"
        session = f"$b setsid -c $b sh -c '{resize}; exec $0 sh /run/lab/lab-job' $b"
        lines += [
            f"{session} < {tty} > {tty} 2>&1",
            "status=$?",
            *[f"$b printf %s $nonce > ${name}_port" for name in PORTS[:2]],
        ]
    else:
        lines += ["$b mkfifo /run/lab/1 /run/lab/2"]
        for number, name in enumerate(PORTS[:2], start=1):
            empty = f"$b cat /run/lab/{number} & echo $! > /run/lab/cat{number}; wait"
            lines += [f"{{ {empty}; $b printf %s $nonce; }} > ${name}_port & p{number}=$!"]
        lines += [
            "$b sh /run/lab/lab-job < /dev/null > /run/lab/1 2> /run/lab/2",
            "status=$?",
            # A daemon left behind by the job may hold the FIFOs open for ever.
            "( $b sleep 3; read -r a < /run/lab/cat1; read -r b2 < /run/lab/cat2; kill $a $b2 ) 2> /dev/null &",
            "wait $p1 $p2",
        ]
    lines += ["stop $status"]
    # By its full path: busybox's env would prefer its own applets to the machine's programs.
    variables = " ".join(quote(f"{name}={value}") for name, value in sorted(env.items()))
    command = " ".join(quote(word) for word in argv)
    job = f"cd {quote(cwd)} || exit 126\nexec /usr/bin/env -i {variables} {command}\n"
    return "\n".join(lines) + "\n", job
