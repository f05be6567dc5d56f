# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmm_testkit.kernels import Kernel, KernelError, extract_vmlinux
from vmm_testkit.kernels import debian_kernel as fetch


@pytest.mark.parametrize("debian_kernel", ["cloud-amd64", "amd64"], indirect=True)
def test_a_debian_kernel_has_image_config_and_modules(debian_kernel: Kernel) -> None:
    assert debian_kernel.vmlinuz.read_bytes()[0x202:0x206] == b"HdrS"
    assert "CONFIG_64BIT=y" in debian_kernel.config.read_text()
    assert debian_kernel.modules.name == debian_kernel.version
    assert "kernel/" in (debian_kernel.modules / "modules.dep").read_text()


@pytest.mark.parametrize("debian_kernel", ["cloud-amd64", "amd64"], indirect=True)
def test_vmlinux_is_the_elf_file_inside(debian_kernel: Kernel) -> None:
    path = debian_kernel.vmlinux()
    head = path.open("rb").read(64)
    assert head[:6] == b"\x7fELF\x02\x01"
    sections_end = struct.unpack_from("<Q", head, 40)[0] + struct.unpack_from("<H", head, 60)[0] * 64
    assert sections_end <= path.stat().st_size


def test_asking_at_the_same_time_gives_one_kernel(debian_kernel: Kernel) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert {kernel.vmlinuz for kernel in pool.map(lambda _: fetch("cloud-amd64"), range(4))} == {
            debian_kernel.vmlinuz
        }


def fake(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_apt_without_lists_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, "apt-cache", "echo 'E: No packages found' >&2; exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(KernelError, match="No packages found; run `apt-get update` as root") as caught:
        fetch("amd64")
    assert "\n" not in str(caught.value)


def test_a_failed_download_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(
        tmp_path,
        "apt-cache",
        "[ $1 = show ] && echo Version: 1.2 || echo '  Depends: linux-image-6.9.9-amd64'",
    )
    fake(tmp_path, "apt-get", "echo half > half.deb; echo 'E: broken pipe' >&2; exit 100")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(KernelError, match="broken pipe"):
        fetch("amd64")
    assert [path.name for path in (tmp_path / "cache/vmm/kernels").iterdir() if path.is_dir()] == []


def test_a_later_suite_has_kernels_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose modules are in usr/lib, where depmod does not look."""
    fake(
        tmp_path,
        "apt-cache",
        """case "$*" in *trixie*) v=6.12.0;; *) v=6.1.0;; esac
        case "$*" in *show*) echo "Version: $v";; *) echo "  Depends: linux-image-$v-amd64";; esac""",
    )
    fake(tmp_path, "apt-get", """for last; do :; done
        case "$*" in *download*) echo "${last#*=}" > x.deb;; esac""")  # fmt: skip
    fake(tmp_path, "dpkg-deb", """v=$(cat $2); mkdir -p $3/boot $3/usr/lib/modules/$v
        echo > $3/boot/vmlinuz-$v; echo > $3/boot/config-$v""")  # fmt: skip
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("VMM_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    for _ in range(2):
        assert fetch("amd64").version == "6.1.0"
        later = fetch("amd64", suite="trixie")
        assert later.version == "6.12.0"
        assert (later.modules.resolve() / "modules.dep").exists()
        assert later.modules.parts[-3:] == ("lib", "modules", "6.12.0")


def test_a_bad_flavour_names_the_good_ones() -> None:
    with pytest.raises(KernelError, match="cloud-amd64"):
        fetch("../etc")


def bzimage(payload: bytes, offset: int = 0) -> bytes:
    image = bytearray(512 * 5 + 0x100)
    image[0x1F1] = 4
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image[: 512 * 5]) + bytes(offset) + payload


def test_extract_gzip_payload() -> None:
    elf = b"\x7fELF" + bytes(range(200))
    assert extract_vmlinux(bzimage(gzip.compress(elf), 77)) == elf


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "HdrS"),
        (b"MZ" * 4000, "HdrS"),
        (bzimage(b"nothing known"), "unknown compression"),
        (bzimage(gzip.compress(b"no elf")), "not an ELF"),
        (bzimage(b"\x1f\x8b" + b"\xff" * 40), "damaged"),
        (bzimage(b"\xfd7zXZ\x00" + b"\xff" * 40), "damaged"),
    ],
)
def test_extract_refuses_what_is_no_bzimage(image: bytes, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        extract_vmlinux(image)
