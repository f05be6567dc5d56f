# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel on an Arm machine described by these tables alone.

The machine is QEMU's "virt", with its own tables left out: its firmware (EDK2) takes ours from the
fw_cfg files that `loader_files` makes, as it does on a machine of ours.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vmm_acpi.loader import loader_files
from vmm_acpi.machine import build_arm

pytest.importorskip("vmm_testkit")
from vmm_testkit.initramfs import Initramfs  # noqa: E402
from vmm_testkit.kernels import KernelError, debian_kernel  # noqa: E402

if TYPE_CHECKING:
    from vmm_acpi.spec import ArmSpec

QEMU = "qemu-system-aarch64"
FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
CPUS = 4
TIMEOUT = 280  # seconds; 12 where nothing else runs

# QEMU's hw/arm/virt.c: addresses, and SPIs of the devices.
VIRT: ArmSpec = {
    "address": 0,
    "cpus": [{"mpidr": n, "pmu_ppi": 7} for n in range(CPUS)],
    "topology": (2, 1, 1, 2),
    "gic": {"dist": 0x0800_0000, "redist": (0x080A_0000, 0x20000 * CPUS), "its": 0x0808_0000},
    "segments": [
        {
            "id": 0,
            "ecam": 0x40_1000_0000,
            "buses": (0, 255),
            "mmio32": (0x1000_0000, 0x2EFF_0000),
            "mmio64": (0x80_0000_0000, 0x80_0000_0000),
            "pio": (0x3EFF_0000, 0x10000),
            "prt": {slot: [3 + (slot + pin) % 4 for pin in range(4)] for slot in range(32)},
        }
    ],
    "ged": {"gsi": 9, "address": 0x0A00_0F00},  # no such device there; the OS reads it on an event only
    "serial": [{"address": 0x0900_0000, "gsi": 1}],
    "gpio": {"address": 0x0903_0000, "gsi": 7},
}

COMMAND = """
cat /dev/vda > /dev/null && dd if=/dev/hwrng of=/dev/null bs=16 count=1 2> /dev/null || exit 1
echo "== log"; dmesg
echo "== interrupts"; cat /proc/interrupts
echo "== devices"; ls /sys/bus/acpi/devices
cd /sys/devices/system/cpu
for n in 0 1 2 3; do
    echo "== cpu$n" $(cat cpu$n/topology/physical_package_id cpu$n/topology/thread_siblings_list)
done
"""


FAULT = re.compile(
    r"ACPI (BIOS |Error|Warning|Exception)|Firmware Bug|GIC.*(fail|invalid)|IORT:|PPTT.*(fail|not|invalid)"
    r"|can't (assign|claim)|no compatible bridge window|not reserved|unable to|nobody cared"
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the guest says on its console, which it knows from the SPCR only."""
    if not shutil.which(QEMU) or not FIRMWARE.exists():
        pytest.skip(f"{QEMU} or its firmware is missing: apt-get install qemu-system-arm qemu-efi-aarch64")
    try:
        kernel = debian_kernel("cloud-arm64")
    except KernelError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("virt")
    modules = ("virtio_pci", "virtio_blk", "virtio_rng")
    initramfs = Initramfs(kernel, modules=modules, mode="command", command=COMMAND).build()
    (folder / "disk").write_bytes(bytes(1 << 20))
    tables = []
    for name, data in loader_files(build_arm(VIRT)).items():
        path = folder / name.replace("/", "-")
        path.write_bytes(data)
        tables += ["-fw_cfg", f"name={name},file={path}"]
    done = subprocess.run(
        [
            *(QEMU, "-M", "virt,gic-version=3,its=on,acpi=off", "-cpu", "cortex-a72", "-smp", str(CPUS)),
            *("-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
            *("-bios", str(FIRMWARE), "-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs)),
            *("-append", "earlycon acpi=force", *tables),
            *("-drive", f"if=none,id=disk,format=raw,file={folder}/disk"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-device", "virtio-rng-pci,vectors=0"),  # interrupts by a pin
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    assert "vmm-exit-status: 0" in text, text[-5000:]
    return text


def test_kernel_finds_no_fault(said: str) -> None:
    log = said[said.index("== log") : said.index("== interrupts")]
    assert not [line for line in log.splitlines() if FAULT.search(line)]
    for line in (
        *("SPCR: console: pl011,mmio32,0x9000000", "psci: PSCIv1", "ACPI: Using GIC for interrupt routing"),
        *("ITS@0x0000000008080000: allocated", "reserved by PNP0C02:00", "Remapped I/O 0x000000003eff0000"),
        *("ARMH0061:00: PL061 GPIO chip", "ACPI: button: Power Button [PWRB]", "enabled with armv8_pmuv3"),
    ):
        assert line in log, line
    assert len(re.findall(r"CPU\d: found redistributor", log)) == CPUS


@pytest.mark.parametrize(
    "row",
    [
        *(r"GICv3 +27 Level +arch_timer", r"GICv3 +33 Level +uart-pl011", r"GICv3 +41 Level +ACPI:Ged"),
        *(r"GICv3 +23 Level +arm-pmu", r"ITS-MSI +\d+ Edge +virtio\d-req.0"),
        r"[1-9]\d*(?: +\d+){3} +GICv3 +37 Level +virtio1",  # slot 2, INTA: SPI 3 + 2 % 4
    ],
)
def test_interrupts_are_where_the_tables_say(said: str, row: str) -> None:
    table = said[said.index("== interrupts") : said.index("== devices")]
    assert re.search(row, table), table


def test_devices_and_processors(said: str) -> None:
    for name in ("ACPI0013:00", "ARMH0011:00", "ARMH0061:00", "PNP0A08:00", "PNP0C0C:00", "ACPI0007:03"):
        assert name in said[said.index("== devices") :]
    processors = re.findall(r"^== cpu(\d) (\d+) (\S+)$", said, re.M)
    assert processors == [("0", "0", "0-1"), ("1", "0", "0-1"), ("2", "1", "2-3"), ("3", "1", "2-3")]
