# SPDX-License-Identifier: Apache-2.0
"""``--disk``: what it accepts, what it plans, and the one line that it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.planning import plan_context
from vmmcore.errors import UserError
from vmmcore.front.planning import PlanContext
from vmmcore.front.ratelimit import rate_limit

from vmm_virtio_blk.plugin import DiskOptions, plan, vmm_device_types


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context() as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any]:
    device: dict[str, Any] = {"id": "disk0", "type": "disk"}
    plan(context, DiskOptions.parse(text, "--disk"), device)
    return device


def test_path_may_stand_alone(context: PlanContext, image: Path) -> None:
    device = planned(context, str(image))
    assert context.plan["files"] == [{"path": str(image), "mode": "rw", "lock": True}]
    assert device["files"] == {"image": 0}
    assert device["options"]["serial"] == "disk0"


def test_all_keys(context: PlanContext, image: Path) -> None:
    device = planned(context, f"path={image},readonly=on,num_queues=4,queue_size=128,serial=abc,image_type=raw,"
                              "disable_io_uring=on,disable_aio=on,sparse=off,packed=on,iommu=on,bw_size=1M,"
                              "bw_one_time_burst=4K,bw_refill_time=100,ops_size=10,ops_refill_time=1")
    assert device["options"] == {
        "readonly": True, "direct": False, "num_queues": 4, "queue_size": 128, "serial": "abc", "io_uring": False,
        "sparse": False, "packed": True, "iommu": True, "bw": [1 << 20, 4096, 100], "ops": [10, 0, 1]}
    assert context.plan["files"] == [{"path": str(image), "mode": "r", "lock": True}]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(context.fd(0), b"x")


@pytest.mark.usefixtures("direct")
def test_direct_is_o_direct(context: PlanContext, image: Path) -> None:
    import fcntl

    planned(context, f"{image},direct=on")
    assert fcntl.fcntl(context.fd(0), fcntl.F_GETFL) & os.O_DIRECT


@pytest.mark.parametrize(("text", "words"), [
    ("", "--disk path=: missing"),
    ("path=", "--disk path=: the path is empty"),
    ("path={image},readonly=perhaps", "--disk readonly=: 'perhaps'"),
    ("path={image},direct=1", "--disk direct=: '1'"),
    ("path={image},num_queues=0", "--disk num_queues=: 0 is too small"),
    ("path={image},num_queues=65", "--disk num_queues=: 65 is too large"),
    ("path={image},num_queues=two", "--disk num_queues=: 'two'"),
    ("path={image},queue_size=100", "--disk queue_size=: 100 is no power of two"),
    ("path={image},queue_size=1", "--disk queue_size=: 1 is too small"),
    ("path={image},queue_size=2048", "--disk queue_size=: 2048 is too large"),
    ("path={image},serial=123456789012345678901", "--disk serial=: 21 bytes"),
    ("path={image},serial=ü", "--disk serial=: only printable ASCII"),
    ("path={image},image_type=qcow2", "--disk image_type=: qcow2 images are not read.*qemu-img convert"),
    ("path={image},image_type=vhdx", "--disk image_type=: vhdx"),
    ("path={image},image_type=vmdk", "--disk image_type=: vmdk"),
    ("path={image},image_type=floppy", "--disk image_type=: 'floppy' is not one of"),
    ("path={image},sparse=maybe", "--disk sparse=: "),
    ("path={image},disable_io_uring=x", "--disk disable_io_uring=: "),
    ("path={image},disable_aio=x", "--disk disable_aio=: "),
    ("path={image},packed=x", "--disk packed=: "),
    ("path={image},iommu=x", "--disk iommu=: "),
    ("path={image},bw_size=fast", "--disk bw_size=: "),
    ("path={image},bw_size=1M", "--disk bw_refill_time=: missing"),
    ("path={image},bw_refill_time=100", "--disk bw_size=: missing"),
    ("path={image},bw_refill_time=soon,bw_size=1", "--disk bw_refill_time=: 'soon'"),
    ("path={image},bw_one_time_burst=100", "--disk bw_size=: missing"),
    ("path={image},bw_one_time_burst=x", "--disk bw_one_time_burst=: "),
    ("path={image},ops_size=-1", "--disk ops_size=: -1 is too small"),
    ("path={image},ops_size=1", "--disk ops_refill_time=: missing"),
    ("path={image},ops_refill_time=1", "--disk ops_size=: missing"),
    ("path={image},ops_one_time_burst=1", "--disk ops_size=: missing"),
    ("path={image},redaonly=on", "--disk: unknown key 'redaonly'; did you mean readonly"),
    ("path={image},path={image}", "--disk path=: given twice"),
    ("path=/nowhere/disk.img", "--disk path=: /nowhere/disk.img: No such file"),
    ("path=/tmp", "--disk path=: /tmp: Is a directory|--disk path=: /tmp: is a directory"),
    ("path=/dev/null", "--disk path=: /dev/null: is neither a file nor a block device"),
])
def test_bad_option_is_one_line_that_names_it(context: PlanContext, image: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        planned(context, text.format(image=image))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("head", "name"), [
    (b"QFI\xfb\0\0\0\3", "qcow2"), (b"vhdxfile", "vhdx"), (b"KDMV\1\0\0\0", "vmdk"),
    (b"# Disk DescriptorFile\n", "vmdk"), (b"conectix", "vhd"), (b"QED\0", "qed"),
])
@pytest.mark.parametrize("more", ["", ",image_type=raw", ",readonly=on", ",direct=on"])
def test_other_formats_are_refused(
    request: pytest.FixtureRequest, context: PlanContext, image: Path, head: bytes, name: str, more: str
) -> None:
    if "direct" in more:
        request.getfixturevalue("direct")
    with image.open("r+b") as file:
        file.write(head)
    with pytest.raises(UserError, match=f"--disk path=: .*is a {name} image.*qemu-img convert"):
        planned(context, f"{image}{more}")


def test_empty_file(context: PlanContext, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="--disk path=: .*is empty; .*truncate"):
        planned(context, str(tmp_path / "empty"))


def test_direct_where_there_is_none(context: PlanContext) -> None:
    # /proc/version is a regular file of a file system without direct I/O
    with pytest.raises(UserError, match="--disk path=: .*no direct I/O; leave direct out"):
        planned(context, "path=/proc/version,direct=on,readonly=on")


def test_dry_run_locks_nothing(image: Path) -> None:
    with plan_context(dry_run=True) as first, plan_context(dry_run=True) as second:
        for context in (first, second):
            planned(context, str(image))


@pytest.mark.parametrize("text", ["path=/nowhere/x", "path={image},image_type=qcow2", "path={qcow2}",
                                  "path={image},queue_size=3", "path={image},id=.", "path={image},slot=99"])
def test_the_command_ends_with_2_and_leaves_nothing(image: Path, text: str) -> None:
    qcow2 = image.with_name("disk.qcow2")
    qcow2.write_bytes(b"QFI\xfb" + bytes(508))
    before = sorted(image.parent.iterdir())
    run = subprocess.run([str(Path(sys.executable).with_name("vmm")), "run", "--kernel", str(image), "--disk",
                          text.format(image=image, qcow2=qcow2)], check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and "--disk" in run.stderr
    assert sorted(image.parent.iterdir()) == before


def test_no_limits_are_no_entry(image: Path) -> None:
    assert rate_limit(DiskOptions.parse(str(image), "--disk")) == {}


def test_one_pci_device_type_of_many() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.many) == ("disk", "pci", True)
