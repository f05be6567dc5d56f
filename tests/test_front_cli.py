# SPDX-License-Identifier: Apache-2.0
"""The `vmm` command as people meet it: mistakes are one line with the right exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from front_fakes import FOO, MACHINE, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "site")
    made.machine()
    return made


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "kernel"
    path.write_bytes(b"FAKE kernel")
    return str(path)


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("vmm: error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--memory", "size=0"], ["--memory size=", "too small"]),
        (["--memory", "0"], ["--memory size="]),
        (["--memory", "size=9999T"], ["--memory size=", "more than this host has"]),
        (["--memory", "size=abc"], ["--memory size=", "not a size"]),
        (["--memory", "sise=1G"], ["did you mean size?"]),
        (["--cpus", "0"], ["--cpus boot="]),
        (["--cpus", "boot=8193"], ["--cpus boot=", "too large"]),
        (["--cpus", "boot=x"], ["--cpus boot=", "whole number"]),
        (["--foo", "sizze=5"], ["--foo", "unknown key 'sizze'", "did you mean size?"]),
        (["--foo", "mode=z"], ["--foo mode=", "not one of a, b, off"]),
        (["--foo", "id=x", "--foo", "id=x"], ["--foo id=", "already the id"]),
        (["--foo", "slot=3", "--foo", "slot=3"], ["--foo slot=", "taken by foo0"]),
        (["--foo", "pci_segment=7"], ["--foo pci_segment="]),
        (["--fooo", "a"], ["No such option '--fooo'"]),
        (["--plugin", "fooo"], ["--plugin fooo", "did you mean foo?"]),
        (["--plugin", "./nowhere.py"], ["nowhere.py", "no such file"]),
        (["--initramfs", "/nowhere"], ["--initramfs", "/nowhere", "No such file"]),
        (["--config", "/nowhere.toml"], ["--config", "No such file"]),
        (["--plan", "/nowhere.json"], ["--plan"]),
        (["--no-default-plugins"], ["may not be used", "add --plugin fake-arch"]),
        (["--name", "a/b"], ["cannot be an id"]),
        (["--memory"], ["--memory", "requires an argument"]),
    ],
)
def test_bad_input(site: Site, kernel: str, args: list[str], words: list[str]) -> None:
    one_line(site.vmm("run", "--kernel", kernel, *args), 2, *words)


def test_bad_kernels(site: Site, tmp_path: Path) -> None:
    one_line(site.vmm("run"), 2, "--kernel", "nothing to boot")
    one_line(site.vmm("run", "--kernel", str(tmp_path / "no")), 2, "--kernel", "No such file")
    one_line(site.vmm("run", "--kernel", str(tmp_path)), 2, "--kernel", "not a regular file")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    one_line(site.vmm("run", "--kernel", str(fifo)), 2, "--kernel", "not a regular file")
    (tmp_path / "other").write_bytes(b"something else")
    one_line(
        site.vmm("run", "--kernel", str(tmp_path / "other")), 2, "no boot method can boot this", "fake-boot"
    )
    (tmp_path / "empty").touch()
    one_line(site.vmm("run", "--kernel", str(tmp_path / "empty")), 2, "is empty")


def test_unreadable_kernel(site: Site, kernel: str) -> None:
    os.chmod(kernel, 0)
    if os.geteuid():
        done = site.vmm("run", "--kernel", kernel)
    else:  # root may read everything, so let the kernel say no by other means
        done = in_python(site, REFUSE, "EACCES", kernel, "run", "--kernel", kernel)
    one_line(done, 2, "--kernel", "Permission denied")


def test_unknown_command(site: Site) -> None:
    one_line(site.vmm("rnu"), 2, "did you mean run?")
    one_line(site.vmm("plugins", "info", "fooo"), 2, "did you mean foo?")


@pytest.mark.parametrize(
    "text", ["raise ValueError('broken\\nbadly')", "import nothing_of_this_name", "import sys; sys.exit(3)"]
)
def test_plugin_that_fails_to_import(tmp_path: Path, kernel: str, text: str) -> None:
    site = Site(tmp_path / "site")
    site.machine()
    (site.root / "fake_foo/plugin.py").write_text(text)
    one_line(
        site.vmm("run", "--kernel", kernel, "--foo", "a"), 2, "plugin foo (vmm-foo 1.0)", "cannot be imported"
    )
    one_line(site.vmm("run", "--kernel", kernel, "--plugin", "foo"), 2, "plugin foo")
    # it harms nobody who does not ask for it
    assert site.vmm("plan", "--kernel", kernel).returncode == 0
    assert "foo" in site.vmm("plugins", "list").stdout
    assert "unusable" in site.vmm("run", "--help").stdout
    shown = site.vmm("plugins", "info", "foo", "--json")
    assert shown.returncode == 1
    assert json.loads(shown.stdout)["state"] == "broken"


@pytest.mark.parametrize(
    ("api", "words"),
    [
        ("API = (2, 0)", "update vmmcore"),
        ("API = (1, 99)", "update vmmcore"),
        ("API = (0, 9)", "update the plugin"),
        ("API = 'new'", "no API"),
    ],
)
def test_plugin_of_another_api(tmp_path: Path, kernel: str, api: str, words: str) -> None:
    site = Site(tmp_path / "site")
    site.machine()
    plugin = site.root / "fake_foo/plugin.py"
    plugin.write_text(plugin.read_text().replace("API = (1, 0)", api))
    one_line(site.vmm("run", "--kernel", kernel, "--foo", "a"), 2, "plugin foo", words)


def test_found_plugin_that_fails_is_left_out_with_one_line(site: Site, kernel: str) -> None:
    site.dist("vmm-bad-boot", "[vmmcore.boot]\nbad = bad_boot\n", {"bad_boot": "1 / 0"})
    done = site.vmm("plan", "--kernel", kernel)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "bad-boot" in done.stderr
    assert "ignored" in done.stderr


def test_unknown_hook_is_refused(tmp_path: Path, kernel: str) -> None:
    site = Site(tmp_path / "site")
    site.machine()
    plugin = site.root / "fake_foo/plugin.py"
    plugin.write_text(plugin.read_text() + "\n@hookimpl\ndef vmm_frobnicate():\n    pass\n")
    one_line(site.vmm("run", "--kernel", kernel, "--foo", "a"), 2, "there is no hook vmm_frobnicate")


def test_two_plugins_claim_one_name(site: Site, kernel: str) -> None:
    site.foo("vmm-other", "other_foo", FOO)
    for args in (["--foo", "a"], ["--plugin", "foo"]):
        one_line(
            site.vmm("run", "--kernel", kernel, *args),
            2,
            "'",
            "vmm-foo 1.0",
            "vmm-other 1.0",
            "uninstall one",
        )
    rows = {row["name"]: row for row in json.loads(site.vmm("plugins", "list", "--json").stdout)}
    assert rows["foo"]["state"] == "conflict"
    assert site.vmm("plan", "--kernel", kernel).returncode == 0


def test_disabled_by_environment(site: Site, kernel: str) -> None:
    env = {"VMM_DISABLE_PLUGINS": "serial,arch-*,boot-linux,fo*"}
    one_line(site.vmm("run", "--kernel", kernel, "--foo", "a", env=env), 2, "VMM_DISABLE_PLUGINS")


def test_plan_shows_devices_in_the_order_asked_for(site: Site, kernel: str, tmp_path: Path) -> None:
    (tmp_path / "bar.py").write_text(
        "from vmmcore import PciDevice\nclass Bar(PciDevice):\n    device_id = 1\n"
    )
    done = site.vmm(
        "plan",
        "--json",
        "--kernel",
        kernel,
        "--foo",
        "b",
        "--plugin",
        f"{tmp_path}/bar.py,key=5",
        "--foo",
        "mode=a,slot=1,id=x",
        "--foo",
        "off",
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [(d["id"], d["slot"]) for d in plan["devices"]] == [("foo0", 2), ("bar0", 3), ("x", 1)]
    assert plan["devices"][1]["options"] == {"key": "5"}
    assert plan["devices"][1]["file"] == f"{tmp_path}/bar.py"
    assert plan["devices"][0]["resources"] == {"gsi": 5}
    assert plan["cmdline"] == "foo=2"
    assert plan["modules"]["fake_foo"] == str(site.root)
    assert plan["arch"] == {"name": "fake", "module": "fake_arch.machine"}


def test_a_device_flag_takes_several_values(site: Site, kernel: str) -> None:
    """As Cloud Hypervisor's users write it: --disk A B."""
    argv = ["plan", "--foo", "b", "mode=a,id=x", "--kernel", kernel, "--foo=off", "off", "--json"]
    done = site.vmm(*argv)
    assert done.returncode == 0, done.stderr
    assert [device["id"] for device in json.loads(done.stdout)["devices"]] == ["foo0", "x"]
    one_line(site.vmm("plan", "--kernel", kernel, "extra", "--foo", "b"), 2, "extra")
    # the plain path of `run`, without click
    one_line(site.vmm("run", "--kernel", kernel, "--foo", "b", "mode=a,id=x", "mode=a,id=x"), 2, "already the id")


def test_flags_override_the_file(site: Site, kernel: str, tmp_path: Path) -> None:
    config = tmp_path / "vm.toml"
    config.write_text(f'kernel = "{kernel}"\ncpus = "boot=1,max=3"\nmemory = "64M"\n[[foo]]\nmode = "b"\n')
    plan = json.loads(site.vmm("plan", "--json", "--config", str(config)).stdout)
    assert (plan["cpus"]["boot"], plan["cpus"]["max"], len(plan["devices"])) == (1, 3, 1)
    assert plan["devices"][0]["options"]["mode"] == "b"
    done = site.vmm(
        "plan", "--json", "--config", str(config), "--cpus", "2", "--memory", "128M", "--foo", "a"
    )
    plan = json.loads(done.stdout)
    assert (plan["cpus"]["boot"], plan["cpus"]["max"]) == (2, 3)
    assert plan["memory"]["regions"] == [[0, 128 << 20]]
    assert [device["options"]["mode"] for device in plan["devices"]] == ["a"]


def test_only_named_plugins(site: Site, kernel: str) -> None:
    named = ["--no-default-plugins", "--plugin", "fake-arch", "--plugin", "fake-boot"]
    assert site.vmm("plan", "--kernel", kernel, *named).returncode == 0
    one_line(site.vmm("plan", "--kernel", kernel, *named, "--foo", "a"), 2, "--foo", "add --plugin foo")
    one_line(site.vmm("plan", "--kernel", kernel, *named[:3]), 2, "add --plugin fake-boot")


def test_a_flag_of_two_words(site: Site, kernel: str) -> None:
    site.dist(
        "vmm-foo-bar",
        "[vmmcore]\nfoo-bar = fake_bar\n[vmmcore.flags]\nfoo-bar = fake_bar\n",
        {"fake_bar": FOO.replace('DeviceType("foo"', 'DeviceType("foo-bar"').replace("'foo'", "'foo-bar'")},
    )
    plan = json.loads(site.vmm("plan", "--json", "--kernel", kernel, "--foo-bar", "b", "--foo", "a").stdout)
    assert [device["type"] for device in plan["devices"]] == ["foo-bar", "foo"]
    assert site.vmm("run", "--help").returncode == 0


def test_what_belongs_to_another_machine_is_inert_and_says_so(site: Site, kernel: str) -> None:
    site.dist(
        "vmm-other",
        "[vmmcore]\nother = fake_other\n[vmmcore.arch]\npdp11 = fake_other\n[vmmcore.flags]\nfoo@pdp11 = fake_other\n",
        {"fake_other": "raise ImportError"},
    )
    rows = {line.split()[0]: line for line in site.vmm("plugins", "list").stdout.splitlines()}
    assert rows["other"].split()[1] == "inert"
    assert f"arch pdp11 (not on {MACHINE})" in rows["other"]
    assert f"--foo@pdp11 (not on {MACHINE})" in rows["other"]
    assert rows["foo"].split()[1] == "ok"
    assert site.vmm("plan", "--kernel", kernel, "--foo", "a").returncode == 0


def test_the_api_needs_a_plugin_that_serves_it(site: Site, kernel: str) -> None:
    nobody = {"VMM_DISABLE_PLUGINS": "api-*,arch-*,boot-*,serial"}
    one_line(site.vmm("run", "--api-socket", "s", env=nobody), 2, "--api-socket", "pip install vmm-api-rest")
    served = "def serve(where, config, plugins):\n    print(where, config.kernel)\n    return 7\nAPI = (1, 0)\n"
    site.dist("vmm-fake-api", "[vmmcore]\nfake-api = fake_api\n[vmmcore.api]\nfake = fake_api\n", {"fake_api": served})
    done = site.vmm("run", "--api-socket", "s", env=nobody)
    assert (done.returncode, done.stdout) == (7, "s None\n")
    done = site.vmm("run", "--api-socket", "s", "--kernel", kernel, "--foo", "a", env=nobody)
    assert (done.returncode, done.stdout) == (7, f"s {kernel}\n")
    one_line(site.vmm("run", "--api-socket", "s", "--no-default-plugins", env=nobody), 2, "add --plugin")
    one_line(site.vmm("run", "--api-socket", "s", "--foo", "a", env=nobody), 2, "--foo", "nothing to boot")
    one_line(site.vmm("run", "--api-socket", "s", "--plan", "p", env=nobody), 2, "--api-socket", "--plan")


def in_python(site: Site, program: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site.root), "VMM_DISABLE_PLUGINS": "arch-*,boot-*,serial"}
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60, env=env
    )


SHOW_MODULES = """
import sys
from vmmcore.front.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("\\n".join(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("args", [["--help"], ["plugins", "list"], ["--version"], ["check"]])
def test_commands_that_need_no_plugin_import_none(site: Site, args: list[str]) -> None:
    modules = in_python(site, SHOW_MODULES, *args).stderr.split()
    assert "vmmcore.front.cli" in modules
    assert not [name for name in modules if name.startswith(("vmm_", "fake_"))]


def test_only_the_plugins_needed_are_imported(site: Site, kernel: str) -> None:
    site.dist(
        "vmm-bar",
        "[vmmcore]\nbar = fake_bar\n[vmmcore.flags]\nbar = fake_bar\n",
        {"fake_bar": FOO.replace("foo", "bar")},
    )
    modules = in_python(site, SHOW_MODULES, "plan", "--kernel", kernel, "--foo", "a").stderr.split()
    found = {
        name for name in modules if (name.startswith(("vmm_", "fake_")) and "." in name) or name == "fake_bar"
    }
    assert found == {
        "fake_arch.plugin",
        "fake_boot.plugin",
        "fake_foo.plugin",
    }  # and no device or machine half


def test_plain_run_imports_neither_click_nor_slow_modules(site: Site, kernel: str) -> None:
    program = SHOW_MODULES.replace(
        "main(sys.argv", "import os; os.execv = lambda *a: sys.exit()\n    main(sys.argv"
    )
    modules = set(
        in_python(site, program, "run", "--kernel", kernel, "--foo", "a", "--memory", "64M").stderr.split()
    )
    assert "vmmcore.front.launch" in modules
    slow = {
        "click",
        "json",
        "tomllib",
        "dataclasses",
        "importlib.metadata",
        "difflib",
        "subprocess",
        "tempfile",
        "socket",
    }
    assert not modules & slow


REFUSE = """
import errno, os, sys
number, refused = getattr(errno, sys.argv.pop(1)), sys.argv.pop(1)
opened = os.open
def refuse(path, *args, **kwargs):
    if path == refused:
        raise OSError(number, os.strerror(number), path)
    return opened(path, *args, **kwargs)
os.open = refuse
from vmmcore.front.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("errno", "words"), [("ENOENT", "does not exist"), ("EACCES", "group"), ("EIO", "Input/output")]
)
def test_no_usable_kvm(site: Site, kernel: str, errno: str, words: str) -> None:
    one_line(in_python(site, REFUSE, errno, "/dev/kvm", "run", "--kernel", kernel), 2, "/dev/kvm", words)
    checked = in_python(site, REFUSE, errno, "/dev/kvm", "check", "--json")
    assert checked.returncode == 1
    status = json.loads(checked.stdout)
    assert not status["usable"]
    assert status["reason"]
    assert status["mend"]


def test_plan_needs_no_kvm(site: Site, kernel: str) -> None:
    assert in_python(site, REFUSE, "ENOENT", "/dev/kvm", "plan", "--kernel", kernel).returncode == 0


def test_bad_plans(site: Site, kernel: str, tmp_path: Path) -> None:
    good = site.vmm("plan", "--json", "--kernel", kernel).stdout
    plan = json.loads(good)
    path = tmp_path / "plan.json"
    cases = [
        "{",
        "[]",
        "{}",
        json.dumps({**plan, "version": 99}),
        json.dumps({**plan, "devices": 5}),
        json.dumps({**plan, "files": [{"path": "/nowhere", "mode": "r"}]}),
        json.dumps({**plan, "files": [{"x": 1}]}),
    ]
    for text in cases:
        path.write_text(text)
        done = site.vmm("run", "--plan", str(path))
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == 1
    one_line(site.vmm("run", "--plan", str(path), "--kernel", kernel), 2, "--plan", "--kernel")


def test_verbose_shows_where_an_error_comes_from(site: Site) -> None:
    done = site.vmm("-vv", "run", "--kernel", "/nowhere")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(site: Site, shell: str) -> None:
    assert "_VMM_COMPLETE" in site.vmm("completion", shell).stdout
    if shell == "bash":
        env = {"_VMM_COMPLETE": "bash_complete", "COMP_WORDS": "vmm ru", "COMP_CWORD": "1"}
        assert site.vmm(env=env).stdout.split() == ["plain,run"]


def test_machine_name(site: Site) -> None:
    assert MACHINE in site.vmm("plugins", "list").stdout
