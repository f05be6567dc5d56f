# SPDX-License-Identifier: Apache-2.0
"""Option syntax and the configuration: what a person may write and what it means."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import Any

import pytest

from vmmcore.errors import UserError
from vmmcore.front.config import Cpus, Memory, VmConfig
from vmmcore.front.options import Option, Options, Path, Size, StrList


class Disk(Options):
    path = Option(Path, doc="the image")
    size = Option(Size, 1 << 20, "bytes", min=512)
    readonly = Option(bool, False)
    num_queues = Option(int, 1, min=1, max=8)
    tags = Option(StrList, [])
    host = Option(str, [], many=True)


def test_flag_syntax() -> None:
    disk = Disk.parse('path="/a,b",readonly=on,num-queues=2,tags=[x,"y,z"],host=h1,host=[h2,h3],size=2GiB')
    assert disk.to_dict() == {
        "path": "/a,b",
        "size": 2 << 30,
        "readonly": True,
        "num_queues": 2,
        "tags": ["x", "y,z"],
        "host": ["h1", "h2", "h3"],
    }
    bare = Disk.parse("/a/b=c.img,readonly")
    assert (bare.path, bare.readonly, bare.size) == ("/a/b=c.img", True, 1 << 20)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("1G", 1 << 30), ("2MiB", 2 << 20), ("4KB", 4096), ("4096", 4096), ("1t", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert Disk.parse(f"path=/a,size={text}").size == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--disk path=: missing"),
        ("path=/a,szie=1", "did you mean size?"),
        ("path=/a,path=/b", "given twice"),
        ("path=/a,readonly=maybe", "--disk readonly="),
        ("path=/a,size=1.5G", "--disk size="),
        ("path=/a,size=1", "too small"),
        ("path=/a,size=-1", "not a size"),
        ("path=/a,num_queues=9", "too large"),
        ("path=/a,num_queues=two", "not a whole number"),
        ("path=/a,tags=[x", "closing ]"),
        ("path=/a,tags=x]", "] without a ["),
        ("path=/a,,size=1M", "empty part"),
        ("path=/a,size", "needs a value"),
        ("path=", "empty"),
    ],
)
def test_bad_text_names_option_and_key(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Disk.parse(text, "--disk")
    message = str(caught.value)
    assert words in message
    assert message.startswith("--disk")
    assert "\n" not in message


def test_dict_form_and_schema_agree() -> None:
    disk = Disk.from_dict({"path": "/a", "size": "1M", "num_queues": 2.0, "readonly": True}, "disk")
    assert (disk.size, disk.num_queues) == (1 << 20, 2)
    for values in (
        {"path": 5},
        {"path": "/a", "readonly": 1},
        {"path": "/a", "num_queues": True},
        {"path": "/a", "x": 1},
    ):
        with pytest.raises(UserError):
            Disk.from_dict(values, "disk")
    schema = Disk.schema()
    assert schema["required"] == ["path"]
    assert set(schema["properties"]) == set(disk.to_dict())
    assert schema["properties"]["num_queues"] == {"type": "integer", "minimum": 1, "maximum": 8, "default": 1}
    json.dumps(schema)


def test_cpus() -> None:
    assert (Cpus.parse("2").boot, Cpus.parse("2").max) == (2, 2)
    cpus = Cpus.parse("boot=2,max=4,topology=1:2:1:2,affinity=[0@[0],1@[0,0-0]],features=[amx,x]")
    assert (cpus.max, cpus.topology, cpus.affinity) == (4, [1, 2, 1, 2], {0: [0], 1: [0, 0]})
    assert cpus.features == ["amx", "x"]
    assert Cpus.from_dict({"affinity": {"0": [0]}, "topology": [1, 1, 1, 1]}).affinity == {0: [0]}


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "boot=4,max=2",
        "99999999999",
        "boot=2,topology=1:1:1:1",
        "topology=1:2",
        "affinity=[1@[0]]",
        "affinity=[0@[100000]]",
        "affinity=[0@[]]",
        "affinity=[0@[0],0@[0]]",
        "affinity=0",
        "max=0",
        "max_phys_bits=10",
    ],
)
def test_bad_cpus(text: str) -> None:
    with pytest.raises(UserError, match=r"^--cpus"):
        Cpus.parse(text, "--cpus")


def test_memory() -> None:
    assert Memory.parse("512M").size == Memory.parse("size=512M").size == 512 << 20
    assert Memory.parse("shared=on,thp=off").to_dict() == Memory(shared=True, thp=False).to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "size=0",
        "1M",
        "size=64M1",
        "size=67108865",
        "9999T",
        "hugepage_size=2M",
        "hugepages=on,hugepage_size=3M",
    ],
)
def test_bad_memory(text: str) -> None:
    with pytest.raises(UserError, match=r"^--memory"):
        Memory.parse(text, "--memory")


def write(path: FilePath, text: str) -> FilePath:
    path.write_text(text)
    return path


def test_config_files_say_what_flags_say(tmp_path: FilePath) -> None:
    toml = write(
        tmp_path / "vm.toml",
        'kernel = "k"\ncpus = "2"\nplugins = ["foo"]\n[memory]\nsize = "1G"\nshared = true\n'
        '[[disk]]\npath = "a"\n[[disk]]\npath = "b"\n[net]\ntap = "t"\n',
    )
    data = {
        "kernel": "k",
        "cpus": {"boot": 2},
        "plugins": ["foo"],
        "memory": {"size": 1 << 30, "shared": True},
        "disk": [{"path": "a"}, "path=b"],
        "net": {"tap": "t"},
    }
    for path in (toml, write(tmp_path / "vm.json", json.dumps(data))):
        config = VmConfig.from_file(path)
        assert config.kernel == str(FilePath("k").absolute())
        assert (config.cpus.boot, config.memory.size, config.memory.shared) == (2, 1 << 30, True)
        assert [device.type for device in config.devices] == ["disk", "disk", "net"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kernal = "x"', "did you mean kernel?"),
        ("kernel = 5", "kernel"),
        ("[cpus]\nbooot = 2", "did you mean boot?"),
        ("[memory]\nsize = true", "size="),
        ("kernel = ", "vm.toml"),
        ("frobnicate = 3", "unknown key 'frobnicate'"),
        ('plugins = "foo"', "list"),
        ("timing = 1", "true or false"),
    ],
)
def test_bad_config_files(tmp_path: FilePath, text: str, words: str) -> None:
    with pytest.raises(UserError, match=r"vm\.toml") as caught:
        VmConfig.from_file(write(tmp_path / "vm.toml", text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"cmdline": "a\nb"}, {"id": "../x"}, {"id": ""}, {"kernel": ""}, {"cpus": 2.5}]
)
def test_bad_python_values(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        VmConfig(**values)
