# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from vmm_testkit.modules import ModuleError, ModuleTree, read_module


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    root = tmp_path / "6.1.0-test"
    root.mkdir()
    (root / "modules.dep").write_text(
        "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/virtio/virtio.ko kernel/net/failover.ko\n"
        "kernel/net/net_failover.ko: kernel/net/failover.ko\n"
        "kernel/net/failover.ko:\n"
        "kernel/virtio/virtio.ko:\n"
        "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko\n"
        "kernel/lib/crc16.ko:\n"
        "kernel/crypto/crc32c-generic.ko:\n"
    )
    (root / "modules.builtin").write_text("kernel/drivers/tty/serial/8250/8250.ko\n")
    (root / "modules.softdep").write_text(
        "# comment\nsoftdep ext4 pre: crc32c_generic not-there post: virtio\n"
    )
    return ModuleTree(root)


def test_what_a_module_needs_comes_before_it(tree: ModuleTree) -> None:
    order = tree.load_order(["virtio-net"])
    assert sorted(order) == [
        "kernel/net/failover.ko", "kernel/net/net_failover.ko", "kernel/net/virtio_net.ko", "kernel/virtio/virtio.ko",
    ]  # fmt: skip
    assert order.index("kernel/net/failover.ko") < order.index("kernel/net/net_failover.ko")
    assert order[-1] == "kernel/net/virtio_net.ko"


def test_each_module_is_loaded_once(tree: ModuleTree) -> None:
    order = tree.load_order(["failover", "virtio_net", "net_failover"])
    assert len(order) == len(set(order)) == 4


def test_soft_dependencies_that_exist_come_first(tree: ModuleTree) -> None:
    order = tree.load_order(["ext4"])
    assert order[-1] == "kernel/fs/ext4/ext4.ko.xz"
    assert "kernel/crypto/crc32c-generic.ko" in order
    assert "kernel/virtio/virtio.ko" not in order


def test_built_in_modules_need_no_loading(tree: ModuleTree) -> None:
    assert tree.load_order(["8250"]) == []


def test_an_unknown_module_is_named(tree: ModuleTree) -> None:
    with pytest.raises(ModuleError, match=r"6\.1\.0-test has no module 'virtio_nte'"):
        tree.load_order(["virtio_nte"])
    assert tree.load_order(["virtio_nte"], optional=True) == []


def test_missing_modules_dep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"modules\.dep is missing"):
        ModuleTree(tmp_path)


def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.ko.xz").write_bytes(lzma.compress(b"module"))
    (tmp_path / "a.ko.gz").write_bytes(gzip.compress(b"module"))
    (tmp_path / "a.ko").write_bytes(b"module")
    for name in ("a.ko.xz", "a.ko.gz", "a.ko"):
        assert read_module(tmp_path / name) == b"module"
