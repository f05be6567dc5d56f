# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: options, exit codes, plan keys, hooks, links, examples."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vmmcore
from vmmcore import hooks
from vmmcore.errors import ExitCode
from vmmcore.front.config import Cpus, Memory, VmConfig
from vmmcore.front.plugins import Plugins
from vmmcore.front.ratelimit import RateLimitOptions
from vmmcore.front.virtio import VirtioOptions

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "docs/*.md", "plugins/*/README.md", "examples/*/README.md")
DOCS = sorted(path for where in PAGES for path in ROOT.glob(where))
VMM = [str(Path(sys.executable).parent / "vmm")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

GUEST = r"""
#include "guest.h"
int main(struct hvm_start_info *si) {
  (void)si;
  int bdf = pci_find(0x1234, 0x0042);
  CHECK(bdf >= 0, "no device, %d", bdf);
  pci_cfg_write16(bdf, 4, pci_cfg_read16(bdf, 4) | 2); /* memory decoding on */
  u64 bar = pci_bar_address(bdf, 0);
  map(bar & ~0x1fffffull, 0x200000, 1);
  CHECK(mmio_read32(bar) == 7, "first value %x", mmio_read32(bar));
  mmio_write32(bar, STEP);
  CHECK(mmio_read32(bar) == 42, "then %x", mmio_read32(bar));
  return 0;
}
"""


def text(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text(name)) if kind == language]


def section(name: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level."""
    level = heading.index(" ")
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", text(name), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name} has no '{heading}'"
    return found[1]


def rows(part: str) -> Iterator[list[str]]:
    """The cells of every table row that begins with code."""
    for line in part.splitlines():
        if line.startswith("| `") or re.match(r"\| \d+ \|", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", re.sub(r"`[^`]*`", _hide, line))[1:-1]]


def _hide(code: re.Match[str]) -> str:
    return code[0].replace("|", "\\|")


def vmm(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VMM, *args], capture_output=True, text=True, cwd=cwd, timeout=60, stdin=subprocess.DEVNULL)


def guest_elf(step: int = 41) -> Any:
    baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc: apt-get install gcc")
    return baremetal.BareMetal(GUEST, defines={"STEP": step})


# --- examples ------------------------------------------------------------------


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """The README's device, as a user would save it."""
    (body,) = blocks("README.md", "python")
    path = tmp_path / "answer.py"
    path.write_text(body)
    return path


@pytest.mark.needs_kvm
def test_the_readme_plugin_works_in_a_guest(answer: Path) -> None:
    guest_elf().run(["--plugin", f"{answer},first=7"]).check()


def test_the_readme_plugin_has_twenty_lines(answer: Path) -> None:
    assert len([line for line in answer.read_text().splitlines() if line.strip()]) <= 20


@pytest.mark.needs_kvm
def test_the_python_api_example_runs(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(blocks("docs/python-api.md", "python")[0])
    elf = guest_elf(step=42).build()
    command = [sys.executable, str(script), str(elf)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ended with 0" in done.stdout
    assert "EXIT:0" in (tmp_path / "console.log").read_text()


@pytest.mark.needs_kvm
def test_the_python_api_life_cycle_example_runs() -> None:
    spin = "#include \"guest.h\"\nint main(struct hvm_start_info *si) { (void)si; for (;;) pause(); }"
    baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")
    elf = baremetal.BareMetal(spin).build()
    call = f"\n\nlook(VmConfig(kernel={str(elf)!r}, memory='64M'))\n"
    done = subprocess.run([sys.executable, "-c", blocks("docs/python-api.md", "python")[1] + call],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("paused "), done.stdout + done.stderr
    assert "exit code" not in done.stdout


def test_configuration_examples_make_a_plan(tmp_path: Path) -> None:
    shutil.copy(guest_elf().build(), tmp_path / "vmlinuz")
    (tmp_path / "initrd.img").write_bytes(bytes(512))
    for kind in ("toml", "json"):
        (body,) = blocks("docs/cli.md", kind)
        (tmp_path / f"vm.{kind}").write_text(body)
        done = vmm("plan", "--json", "--config", f"vm.{kind}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        given = tomllib.loads(body) if kind == "toml" else json.loads(body)
        plan = json.loads(done.stdout)
        assert plan["cpus"]["boot"] == 2
        assert sum(size for _, size in plan["memory"]["regions"]) == 1 << 30
        assert {device["type"] for device in plan["devices"]} <= given.keys()


def test_the_c_example_compiles(tmp_path: Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("needs gcc: apt-get install gcc")
    for number, body in enumerate(blocks("docs/writing-a-plugin.md", "c")):
        source = tmp_path / f"example{number}.c"
        source.write_text(body)
        flags = ["-std=c11", "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        done = subprocess.run([gcc, *flags, f"-I{vmmcore.get_include()}", str(source)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in DOCS])
def test_python_examples_import_what_exists(name: str) -> None:
    for body in blocks(name, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("vmm"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


# --- hooks ---------------------------------------------------------------------


def signature(node: ast.FunctionDef) -> str:
    decorators = " ".join(f"@{ast.unparse(d)}" for d in node.decorator_list if isinstance(d, ast.Call))
    arguments = re.sub(r"^self(, )?", "", ast.unparse(node.args))
    return f"{decorators} {node.name}({arguments}) -> {ast.unparse(node.returns) if node.returns else None}".strip()


def functions(tree: ast.AST) -> dict[str, str]:
    """name -> signature, for hooks; Class.method for DeviceType, BootClaim and Arch."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in ("DeviceType", "BootClaim", "Arch"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = signature(method)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("vmm_"):
            found[node.name] = signature(node)
    return found


def test_hooks_page_has_every_hook_as_it_is() -> None:
    source = ast.parse(Path(hooks.__file__).read_text())
    written: dict[str, str] = {}
    for body in blocks("docs/hooks.md", "python"):
        written |= functions(ast.parse(body))
    assert written == functions(source)
    assert len(written) > 7
    for name in written:
        if name.startswith("vmm_"):
            assert f"## {name}\n" in text("docs/hooks.md")


def test_hooks_page_has_every_event() -> None:
    part = section("docs/hooks.md", "## vmm_vm_event")
    written = {name for cells in rows(part) for name in re.findall(r"`([\w-]+)`", cells[0])}
    places = ("vmmcore/machine/*.py", "vmmcore/virtio.py", "vmmcore/front/vm.py", "plugins/*/src/*/*.py")
    tellers = [path for where in places for path in ROOT.glob(where)]
    assert written == {name for path in tellers for name in told(path)}


def told(path: Path) -> Iterator[str]:
    """Names of the events that a file tells."""
    tells = ("tell", "event", "_happened") if path.is_relative_to(ROOT / "vmmcore") else ("tell", "_tell")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in tells:
            for part in ast.walk(ast.List(node.args[:1])):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


# --- the command line ------------------------------------------------------------


def documented_options(heading: str) -> set[str]:
    part = section("docs/cli.md", heading)
    return {option for cells in rows(part) for option in re.findall(r"`(--[\w-]+)", cells[0])}


def offered_options(command: str) -> set[str]:
    done = vmm(command, "--help")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^  (-\S.*?)(?:  |$)", done.stdout, re.MULTILINE)
    return {option for line in lines for option in re.findall(r"(?<![\w-])--[\w-]+", line)}


def our_flags() -> set[str]:
    """Flags of the plugins of this repository."""
    found: set[str] = set()
    for path in ROOT.glob("plugins/*/pyproject.toml"):
        entries = tomllib.loads(path.read_text())["project"].get("entry-points", {})
        found |= {"--" + key.partition("@")[0] for key in entries.get("vmmcore.flags", {})}
    return found


def foreign_flags() -> set[str]:
    """Flags of other plugins that happen to be installed here."""
    return {f"--{key}" for key in Plugins().discovery.group("vmmcore.flags")} - our_flags()


def test_options_of_run() -> None:
    assert documented_options("## vmm run") == (offered_options("run") | our_flags()) - foreign_flags()


def test_options_of_plan() -> None:
    assert documented_options("## vmm plan") == offered_options("plan") - our_flags() - foreign_flags()


#: commands that packages of this repository bring: the package's module
COMMANDS = {"ctl": "vmm_api_rest", "lab": "vmm_testkit", "top": "vmm_top"}


@pytest.mark.parametrize("command", ["check", *COMMANDS])
def test_options_of_other_commands(command: str) -> None:
    if command in COMMANDS:
        pytest.importorskip(COMMANDS[command], reason=f"needs pip install {COMMANDS[command].replace('_', '-')}")
    assert documented_options(f"## vmm {command}") == offered_options(command)


@pytest.mark.parametrize(("heading", "options"), [("### CPUs", Cpus), ("### Memory", Memory)])
def test_keys_of_cpus_and_memory(heading: str, options: Any) -> None:
    written = {cells[0].strip("`") for cells in rows(section("docs/cli.md", heading))}
    assert written == set(options._options)


@pytest.mark.parametrize("flag", sorted(our_flags()))
def test_options_of_device_flags(flag: str) -> None:
    written = {cells[0].strip("`"): cells[1] for cells in rows(section("docs/cli.md", "### Plugins and devices"))}
    try:
        _, kind = Plugins(warn=lambda line: None).device_type(flag[2:], flag)
    except vmmcore.UserError as error:
        pytest.skip(f"{error}; pip install it")
    named = set(re.findall(r"(\w+)=", written[flag]))
    for word, group in (("limits", RateLimitOptions), ("rings", VirtioOptions)):
        if re.search(rf"; {word}\b", written[flag]):
            named |= set(group._options)
            explained = section("docs/cli.md", "### Plugins and devices").partition(f"*{word.capitalize()}*:")[2]
            assert set(group._options) <= set(re.findall(r"(\w+)=", explained))
    assert named == set(kind.options._options if kind.options else ())


def test_config_file_keys_are_named() -> None:
    part = section("docs/cli.md", "## Configuration file")
    assert {*VmConfig.SCALARS, "cpus", "memory"} <= set(re.findall(r"`(\w+)`", part))


def test_exit_codes() -> None:
    written = {cells[1].strip("`"): int(cells[0]) for cells in rows(section("docs/cli.md", "## Exit codes"))}
    assert written == {name: code for name, code in vars(ExitCode).items() if name.isupper()}


def test_commands() -> None:
    done = vmm("--help")
    offered = set(re.findall(r"^  ([a-z]\w*)  ", done.stdout.partition("Commands:")[2], re.MULTILINE))
    written = set(re.findall(r"^## vmm (\w+)$", text("docs/cli.md"), re.MULTILINE))
    assert written == {*offered, *COMMANDS}


# --- the plan ----------------------------------------------------------------------


def test_plan_keys(answer: Path) -> None:
    elf = guest_elf().build()
    done = vmm("plan", "--json", "--kernel", str(elf), "--memory", "64M", "--plugin", f"{answer},first=7",
               "--serial", "null")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    table = list(rows(section("docs/architecture.md", "## The plan").partition("### Entry")[0]))
    when = {cells[0].strip("`"): cells[1] for cells in table if len(cells) == 3}
    nested = {key.partition(".")[0] for key in when if "." in key}
    real = {f"{key}.{inner}" for key in nested for inner in plan[key]} | {key for key in plan if key not in nested}
    assert {key for key, kind in when.items() if kind == "always"} == real
    assert set(when.values()) == {"always", "launch", "optional"}
    devices = {cells[0] for cells in table if len(cells) == 2}
    written = {key for cell in devices for key in re.findall(r"`(\w+)`", cell)}
    assert written == {key for device in plan["devices"] for key in device}


def test_source_files_in_the_architecture_exist() -> None:
    part = section("docs/architecture.md", "## The C core")
    written = {cells[0].strip("`") for cells in rows(part)}
    assert written == {path.name for path in (ROOT / "native").glob("*.c") if path.name != "_native.c"}


# --- links ----------------------------------------------------------------------------


def anchors(markdown: str) -> set[str]:
    prose = BLOCK.sub("", markdown)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in DOCS])
def test_relative_links_resolve(name: str) -> None:
    prose = BLOCK.sub("", text(name))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{name}: {target}"
