# SPDX-License-Identifier: Apache-2.0
"""This repository's packages for another architecture, as a virtual environment for its Debian's Python.

Each package's own build backend makes a wheel, with a cross compiler and that architecture's headers; what the
packages need of others comes from the package index. All is kept in the cache, named by what it is made of.
"""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from vmm_testkit.arch import Arch
from vmm_testkit.cache import cache_dir, keep_newest, make_dir, make_file
from vmm_testkit.foreign_root import PYTHON, compile_python, foreign_root
from vmm_testkit.host import find, run
from vmm_testkit.lab_session import LabMissing

#: what tests use beside what the packages declare
TOOLS = ("pytest>=8", "pytest-timeout", "pytest-rerunfailures")
#: of a project's folder: not part of the package
_NOT = {"bench", "build", "dist", "docs", "examples", "fuzz", "plugins", "tests", "tools"}
#: makes a wheel of the current directory: backend, output directory
_BUILD = "import importlib, sys; importlib.import_module(sys.argv[1]).build_wheel(sys.argv[2])"
_SCRIPT = "#!{tree}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
_SITE = f"lib/python{PYTHON}/site-packages"


@cache
def foreign_packages(arch: Arch) -> Path:
    """The environment: ``bin/python``, ``bin/vmm``, the core, all plugins, pytest. Made if it is not there.

    A package that does not build is left out, with a line on standard error. Raises LabMissing.
    """
    root = foreign_root(arch)
    core = _checkout()
    projects = [core, *_parts(core)]
    with ThreadPoolExecutor(2) as pool:
        wheels = [wheel for wheel in pool.map(lambda path: _wheel(path, core, arch, root), projects) if wheel]
    others = _from_index(arch, sorted(_requirements(projects, arch)))
    key = hashlib.sha256(repr(("1", [str(wheel) for wheel in wheels], str(others))).encode()).hexdigest()[:16]
    path = cache_dir("lab") / f"packages-{arch.debian}-{key}"

    def fill(tree: Path) -> None:
        site = tree / _SITE
        site.parent.mkdir(parents=True)
        run(LabMissing, "cp", "-al", str(others), str(site))
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        compile_python(site)
        (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        (tree / "bin").mkdir()
        (tree / "bin/python").symlink_to(f"/usr/bin/python{PYTHON}")
        (tree / "bin/python3").symlink_to("python")
        for name, target in _scripts(site):
            module, _, function = target.partition(":")
            script = tree / "bin" / name
            script.write_text(_SCRIPT.format(tree=path, module=module, function=function))
            script.chmod(0o755)

    return keep_newest(make_dir(path, fill), f"packages-{arch.debian}-*")


def _checkout() -> Path:
    """The folder with the core's sources: around the current directory, else where this one is installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if _project(folder).get("name") == "vmmcore":
            return folder
    try:
        said = json.loads(metadata.distribution("vmmcore").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        said = {}
    folder = Path(unquote(urlparse(said.get("url", "")).path))
    if "dir_info" in said and _project(folder).get("name") == "vmmcore":
        return folder
    raise LabMissing("a lab of another architecture needs the packages' sources: run it in a checkout of vmm")


def _parts(core: Path) -> list[Path]:
    """The folders of all plugins, and of the examples that are installed here."""
    examples = [path for path in sorted(core.glob("examples/*")) if _installed(str(_project(path).get("name", "")))]
    return [path for path in (*sorted(core.glob("plugins/*")), *examples) if _project(path)]


def _installed(name: str) -> bool:
    try:
        return bool(name) and metadata.distribution(name) is not None
    except metadata.PackageNotFoundError:
        return False


def _project(folder: Path) -> dict[str, object]:
    """The table [project] of the folder's pyproject.toml; empty if there is none."""
    try:
        found = tomllib.loads((folder / "pyproject.toml").read_text()).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _requirements(projects: Sequence[Path], arch: Arch) -> set[str]:
    """What the packages and their tests need from the index. pip would ask their markers of this machine."""
    from packaging.requirements import Requirement

    there = {"platform_machine": arch.name, "python_version": PYTHON, "extra": ""}
    wanted = set(TOOLS)
    for folder in projects:
        declared = _project(folder).get("dependencies", [])
        for line in declared if isinstance(declared, list) else []:
            need = Requirement(line)
            if not need.name.startswith("vmm") and (need.marker is None or need.marker.evaluate(there)):
                need.marker = None
                wanted.add(str(need))
    return wanted


def _from_index(arch: Arch, wanted: Sequence[str]) -> Path:
    """A folder with those packages and what they need, as pip finds it for the architecture."""
    key = hashlib.sha256(repr(("1", PYTHON, wanted)).encode()).hexdigest()[:16]

    def fill(tree: Path) -> None:
        if importlib.util.find_spec("pip") is None:
            raise LabMissing(f"pip is missing: run `{sys.executable} -m ensurepip`")
        platforms = [f"manylinux_2_{minor}_{arch.name}" for minor in range(36, 16, -1)] + [f"manylinux2014_{arch.name}"]
        run(
            LabMissing, sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile",
            "--target", str(tree), "--only-binary=:all:", "--implementation=cp", "--abi=abi3", "--abi=none",
            f"--abi=cp{PYTHON.replace('.', '')}", f"--python-version={PYTHON}",
            *(word for name in platforms for word in ("--platform", name)), *wanted,
        )  # fmt: skip
        shutil.rmtree(tree / "bin", ignore_errors=True)
        compile_python(tree)

    return keep_newest(make_dir(cache_dir("lab") / f"index-{arch.debian}-{key}", fill), f"index-{arch.debian}-*")


def _sources(folder: Path) -> dict[str, bytes]:
    """What a package is built from: relative path -> content."""
    found: dict[str, bytes] = {}

    def add(path: Path) -> None:
        if path.name.startswith(".") or path.name == "__pycache__" or path.is_symlink():
            return
        if path.is_dir():
            for child in sorted(path.iterdir()):
                add(child)
        elif path.suffix not in (".so", ".o"):
            found[str(path.relative_to(folder))] = path.read_bytes()

    for path in sorted(folder.iterdir()):
        package = path.is_dir() and path.name not in _NOT and not path.name.endswith(".egg-info")
        if package or path.suffix in (".py", ".toml") or path.name.startswith(("LICENSE", "MANIFEST", "README")):
            add(path)
    return found


def _wheel(folder: Path, core: Path, arch: Arch, root: Path) -> Path | None:
    """The package's wheel in the cache; None, and a line on standard error, when it does not build."""
    sources = _sources(folder)
    seen = dict(sources)
    if "setup.py" in sources:  # it has C code, which is compiled against the core's headers
        headers = core / "vmmcore/include"
        seen |= {f"core: {path.relative_to(headers)}": path.read_bytes() for path in sorted(headers.rglob("*.h"))}
    digest = hashlib.sha256(repr(("2", arch.name, str(root), metadata.version("cffi"))).encode())
    for name, data in seen.items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    stem = f"{folder.name if folder != core else 'vmmcore'}-{arch.debian}-{digest.hexdigest()[:20]}"
    store = cache_dir("lab") / "wheels"
    store.mkdir(exist_ok=True)
    failed = store / f"{stem}.failed"
    wheel = store / f"{stem}.whl"
    if not wheel.exists() and not failed.exists():
        with tempfile.TemporaryDirectory(prefix="vmm-wheel-") as scratch:
            made = _build(sources, core, arch, root, Path(scratch))
            if isinstance(made, str):
                failed.write_text(made)
            else:
                make_file(wheel, lambda path: (shutil.copyfile(made, path), None)[1])
    if wheel.exists():
        return keep_newest(wheel, f"{stem.rpartition('-')[0]}-*")
    text = failed.read_text()
    why = re.search(r"^.*\b[Ee]rror: .*$", text, re.MULTILINE)
    line = why[0] if why else (text.strip().splitlines() or ["it says nothing"])[-1]
    said = f"vmm lab: {folder} does not build for {arch.name}: {line} (all of it: {failed})"
    print(said, file=sys.stderr, flush=True)
    return None


def _build(sources: dict[str, bytes], core: Path, arch: Arch, root: Path, scratch: Path) -> Path | str:
    """Build in a copy, so that nothing of it gets into the sources; the wheel, or what the build said."""
    copy, out = scratch / "source", scratch / "wheel"
    for name, data in sources.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    out.mkdir()
    system = tomllib.loads(sources["pyproject.toml"].decode()).get("build-system", {})
    backend = system.get("build-backend", "setuptools.build_meta")
    for name in (backend.partition(".")[0], "cffi"):
        if importlib.util.find_spec(name) is None:
            mend = f"run `{sys.executable} -m pip install {name}`"
            raise LabMissing(f"{name} is missing, which packages are built with: {mend}")
    compiler = find(LabMissing, f"{arch.triplet}-gcc", f"gcc-{arch.triplet.replace('_', '-')}")
    gcc = f"{compiler} --sysroot={root} -I{root}/usr/include/python{PYTHON}"
    env = os.environ | {
        "CC": gcc, "LDSHARED": f"{gcc} -shared", "PYTHONPATH": str(core), "_PYTHON_HOST_PLATFORM": f"linux-{arch.name}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, "-P", "-c", _BUILD, backend, str(out)]
    done = subprocess.run(
        command, cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    found = list(out.glob("*.whl"))
    return found[0] if done.returncode == 0 and found else done.stdout


def _scripts(site: Path) -> Iterator[tuple[str, str]]:
    """The commands that the packages there declare: name, module:function."""
    for path in sorted(site.glob("*.dist-info/entry_points.txt")):
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(path)
        if parser.has_section("console_scripts"):
            yield from parser.items("console_scripts")
