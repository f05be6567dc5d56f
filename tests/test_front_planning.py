# SPDX-License-Identifier: Apache-2.0
"""Compiling a plan in this process: a failure leaves nothing behind; pluggy knows our markers."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from front_fakes import FOO, Site

from vmmcore import hooks
from vmmcore import plan as planfile
from vmmcore.errors import PluginError, UserError, VmmError
from vmmcore.front.config import DeviceConfig, VmConfig
from vmmcore.front.discovery import Discovery
from vmmcore.front.planning import PlannedVm, compile_plan
from vmmcore.front.plugins import Plugins


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    made.machine()
    monkeypatch.syspath_prepend(str(made.root))
    yield made
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


def config(tmp_path: Path, *devices: DeviceConfig | str, **values: object) -> VmConfig:
    (tmp_path / "kernel").write_bytes(b"FAKE kernel")
    return VmConfig(kernel=tmp_path / "kernel", memory="64M", devices=devices, **values)  # type: ignore[arg-type]


def compiled(site: Site, wanted: VmConfig, **how: bool) -> PlannedVm:
    plugins = Plugins(
        wanted.plugins,
        default_plugins=wanted.default_plugins,
        discovery=Discovery([str(site.root)], disabled=""),
    )
    return compile_plan(wanted, plugins, **how)


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_files_are_open_until_closed(site: Site, tmp_path: Path) -> None:
    before = fds()
    with compiled(site, config(tmp_path, "foo")) as planned:
        assert len(planned.fds) == len(planned.plan["files"]) == 1
        assert os.read(planned.fds[0], 4) == b"FAKE"
        assert not any(os.get_inheritable(fd) for fd in planned.fds)
    assert fds() == before


@pytest.mark.parametrize(
    "breakage", ["raise ValueError('x')", "raise UserError('--foo', 'no')", "context.gsi(); context.gsi()"]
)
def test_an_error_closes_every_file(site: Site, tmp_path: Path, breakage: str) -> None:
    plugin = site.root / "fake_foo/plugin.py"
    plan = (
        f"context.open_file(__file__, '--foo'); context.open_stdio(1); context.open_pty('--foo'); {breakage}"
    )
    plugin.write_text(
        plugin.read_text()
        .replace('device["resources"]["gsi"] = context.gsi()', plan)
        .replace("from vmmcore.hooks", "from vmmcore.errors import UserError\nfrom vmmcore.hooks")
    )
    before = fds()
    with pytest.raises(VmmError) as caught:
        compiled(site, config(tmp_path, "foo", "foo"))
    assert "\n" not in str(caught.value)
    assert fds() == before


def test_conflicts_name_both_owners(site: Site, tmp_path: Path) -> None:
    plugin = site.root / "fake_foo/plugin.py"
    plugin.write_text(plugin.read_text().replace("context.gsi()", 'context.ports(0x100, 8, device["id"])'))
    with pytest.raises(VmmError, match=r"foo1 and foo0 both claim port 0x100"):
        compiled(site, config(tmp_path, "foo", "foo"))


def test_an_architecture_has_devices_of_its_own(site: Site, tmp_path: Path) -> None:
    plugin = site.root / "fake_arch/plugin.py"
    plugin.write_text(plugin.read_text().replace('name = "fake"', 'name = "fake"\n    devices = ("foo", "absent")'))
    with compiled(site, config(tmp_path)) as planned:
        assert [device["type"] for device in planned.plan["devices"]] == ["foo"]
    with compiled(site, config(tmp_path, DeviceConfig("foo", "b"))) as planned:  # the one asked for, no second
        assert [device["options"]["mode"] for device in planned.plan["devices"]] == ["b"]
    with compiled(site, config(tmp_path, DeviceConfig("foo", "off"))) as planned:
        assert planned.plan["devices"] == []


def test_load_outside_of_ram_is_refused(site: Site, tmp_path: Path) -> None:
    plugin = site.root / "fake_boot/plugin.py"
    plugin.write_text(plugin.read_text().replace("load_bytes(0x1000,", "load_bytes((64 << 20) - 1, b'xx' +"))
    with pytest.raises(UserError, match="--memory size="):
        compiled(site, config(tmp_path))


def test_a_dry_run_creates_nothing(site: Site, tmp_path: Path) -> None:
    plugin = site.root / "fake_foo/plugin.py"
    kept = tmp_path / "kept"
    kept.write_text("precious")
    plugin.write_text(
        plugin.read_text().replace(
            "context.gsi()",
            f"[context.open_file(f, '--foo', m) for f, m in (({str(kept)!r}, 'w'), ('{tmp_path}/new', 'a'))]",
        )
    )
    with compiled(site, config(tmp_path, "foo"), dry_run=True):
        assert kept.read_text() == "precious"
        assert not (tmp_path / "new").exists()
    with compiled(site, config(tmp_path, "foo")):
        assert kept.read_text() == ""
        assert (tmp_path / "new").exists()


def test_a_plan_survives_json(site: Site, tmp_path: Path) -> None:
    with compiled(site, config(tmp_path, "foo", cpus={"boot": 1, "affinity": {0: [0]}})) as planned:
        again = planfile.from_json(planfile.to_json(planned.plan))
        assert {**again, "control": -1} == planned.plan
    opened = planfile.reopen(again, print)
    assert os.read(opened[0], 4) == b"FAKE"
    planfile.close_all(opened)
    assert opened == []


def test_a_class_of_the_callers_own(site: Site, tmp_path: Path) -> None:
    (site.root / "fake_own.py").write_text(
        "from vmmcore import Device\nclass Mine(Device):\n    class Inner(Device):\n        pass\n"
    )
    import fake_own  # type: ignore[import-not-found]

    with compiled(site, config(tmp_path, DeviceConfig(fake_own.Mine, {"a": 1}, "m"))) as planned:
        (device,) = planned.plan["devices"]
        assert (device["id"], device["module"], device["class"]) == ("m", "fake_own", "Mine")
        assert device["options"] == {"a": 1}
        assert str(site.root) in planned.plan["user_path"]
    with pytest.raises(UserError, match="top level of a file"):
        compiled(site, config(tmp_path, DeviceConfig(fake_own.Mine.Inner)))


def test_a_rejected_plugin_leaves_no_hook_behind(site: Site) -> None:
    text = FOO.replace("def vmm_cmdline_words(context)", "def vmm_cmdline_words(context, no_such_argument)")
    site.dist("vmm-bad", "[vmmcore]\nbad = fake_bad\n", {"fake_bad": text})
    plugins = Plugins(["bad"], discovery=Discovery([str(site.root)], disabled=""))
    with pytest.raises(PluginError, match="plugin bad"):
        plugins.load_named("bad")
    assert not plugins.manager.get_plugins()
    assert plugins.hooks.vmm_device_types() == []


def test_pluggy_honours_our_markers(tmp_path: Path) -> None:
    path = tmp_path / "order.py"
    path.write_text(
        textwrap.dedent("""
        from vmmcore.hooks import hookimpl
        API = (1, 0)
        @hookimpl(specname="vmm_cmdline_words", trylast=True)
        def last(context):
            return ["last"]
        @hookimpl(wrapper=True)
        def vmm_cmdline_words(context):
            return [["wrapped"]] + (yield)
        @hookimpl(tryfirst=True)
        def vmm_arch(machine):
            return machine + "!"
        def vmm_plan_ready(context):
            raise AssertionError("not marked")
        """)
    )
    plugins = Plugins(discovery=Discovery([], disabled=""))
    plugins.load_named(str(path))
    assert plugins.hooks.vmm_cmdline_words(context=None) == [["wrapped"], ["last"]]
    assert plugins.hooks.vmm_arch(machine="m") == "m!"  # firstresult
    assert plugins.hooks.vmm_plan_ready(context=None) == []


def test_every_hook_is_specified_and_documented() -> None:
    plugins = Plugins(discovery=Discovery([], disabled=""))
    specs = {name for name in vars(hooks) if hasattr(getattr(hooks, name), "vmm_spec")}
    assert specs == {name for name in vars(plugins.hooks) if name.startswith("vmm_")}
    assert all(getattr(hooks, name).__doc__ for name in specs)


def test_the_scanner_finds_what_importlib_metadata_finds() -> None:
    from importlib.metadata import entry_points

    found = Discovery(disabled="")
    for group in ("vmmcore", "vmmcore.flags", "vmmcore.arch", "vmmcore.boot", "vmmcore.commands"):
        expected = {(entry.name, entry.module) for entry in entry_points(group=group)}
        ours = [entry for name in found.names() for entry in found.entries(name) if entry.group == group]
        assert {(entry.name, entry.module) for entry in ours} == expected


@pytest.mark.parametrize(
    ("machine", "module"), [("aarch64", "fake_bar.plugin"), ("riscv64", "fake_foo.plugin")]
)
def test_a_flag_may_be_another_plugins_on_one_machine(site: Site, machine: str, module: str) -> None:
    site.dist(
        "vmm-bar",
        "[vmmcore]\nbar = fake_bar.plugin\n[vmmcore.flags]\nfoo@aarch64 = fake_bar.plugin\n",
        {"fake_bar.plugin": FOO, "fake_bar.device": ""},
    )
    plugins = Plugins(discovery=Discovery([str(site.root)], disabled="", machine=machine))
    assert [*plugins.discovery.group("vmmcore.flags")] == ["foo"]
    assert plugins.device_type("foo", "--foo")[0].module.__name__ == module
    assert {"foo", "bar"} <= set(plugins.discovery.names())
