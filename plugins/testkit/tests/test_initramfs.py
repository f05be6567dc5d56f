# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmm_testkit.guest_init import stamp_program
from vmm_testkit.initramfs import Initramfs, InitramfsError
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.busybox


def names(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Members of a newc archive: name -> (mode, content)."""
    found = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        data = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[data : data + fields[6]])
        at = (data + fields[6] + 3) & ~3


def test_modules_are_there_and_listed_in_load_order(debian_kernel: Kernel) -> None:
    members = names(Initramfs(debian_kernel, modules=["virtio_net napi_tx=1"]).build().read_bytes())
    load = members["etc/modules.load"][1].decode().splitlines()
    assert load[-1] == "virtio_net.ko napi_tx=1"
    assert load.index("virtio_ring.ko") < load.index("virtio.ko") < load.index("virtio_net.ko napi_tx=1")
    for line in load:
        assert members[f"lib/modules/{line.split()[0]}"][1][:4] == b"\x7fELF"


def test_files_programs_and_links(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    program = shutil.which("env")
    assert program
    image = Initramfs(files={"/etc/motd": b"hi", "opt/tool": script}, programs=["env"]).build()
    members = names(image.read_bytes())
    assert members["etc/motd"] == (0o100644, b"hi")
    assert members["opt/tool"] == (0o100755, b"#!/bin/sh\n")
    assert members[program.strip("/")][1] == Path(program).read_bytes()
    assert any(name.endswith("libc.so.6") for name in members)
    assert any("/ld-linux" in f"/{name}" for name in members)
    assert members["bin/sh"] == (0o120777, b"busybox")
    assert "bin/env" not in members or program == "/bin/env"
    assert members["dev/console"][0] == 0o020600


def test_equal_content_is_built_once_and_changes_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    first = Initramfs(files={"f": file}).build()
    assert Initramfs(files={"f": file}).build() == first
    file.write_text("three")
    second = Initramfs(files={"f": file}).build()
    assert second != first
    assert names(second.read_bytes())["f"][1] == b"three"


def test_compressed_is_the_same_inside(tmp_path: Path) -> None:
    plain = Initramfs(files={"f": b"x"}).write(tmp_path / "plain")
    packed = Initramfs(files={"f": b"x"}, compress=True).write(tmp_path / "packed")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"modules": ["virtio_net"]}, "pass kernel="),
        ({"mode": "daemon"}, "loop, shell, command"),
        ({"files": {"a": "/no/such/file"}}, "/no/such/file: no such file"),
        ({"programs": ["no-such-program"]}, "no-such-program is not on this machine"),
        ({"hostname": "a b; reboot"}, "letters, digits"),
    ],
)
def test_what_is_missing_is_one_line(keywords: dict[str, object], message: str) -> None:
    with pytest.raises(InitramfsError, match=message) as caught:
        Initramfs(**keywords)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_module_is_one_line(debian_kernel: Kernel) -> None:
    with pytest.raises(InitramfsError, match="no module 'virtio_nte'"):
        Initramfs(debian_kernel, modules=["virtio_nte"])


def test_the_stamp_program_runs(tmp_path: Path) -> None:
    # Writing port 0x80 is harmless on a PC (it is the POST code port); without the right to do so, it exits.
    path = tmp_path / "stamp"
    path.write_bytes(stamp_program())
    path.chmod(0o755)
    assert subprocess.run([path], check=False).returncode == 0


def test_modules_do_not_import_pytest() -> None:
    code = "import sys, vmm_testkit.lab, vmm_testkit.guest, vmm_testkit.baremetal; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
