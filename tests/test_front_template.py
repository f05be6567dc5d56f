# SPDX-License-Identifier: Apache-2.0
"""`vmm plugins new`: the package it writes installs and passes its own tests, unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmmcore.errors import UserError
from vmmcore.front.template import write_plugin

VMM = Path(sys.executable).with_name("vmm")


@pytest.mark.parametrize("options", [[], ["--native"]], ids=["python", "native"])
def test_the_generated_plugin_works_at_once(tmp_path: Path, options: list[str]) -> None:
    made = subprocess.run(
        [VMM, "plugins", "new", "my-dev", *options], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    package, venv = tmp_path / "vmm-my-dev", tmp_path / "venv"
    # what is installed here is seen by the new environment, which holds nothing but the new plugin
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "--target",
        site,
        package,
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    script = venv / "bin/vmm"  # in the outer environment its interpreter does not see the new plugin
    script.write_text(
        f"#!{venv}/bin/python\nimport sys\nfrom vmmcore.front.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    tests = subprocess.run(
        [venv / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", package],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "passed" in tests.stdout
    assert "skipped" not in tests.stdout or not os.access("/dev/kvm", os.R_OK | os.W_OK), tests.stdout
    shown = subprocess.run(
        [script, "plugins", "info", "my-dev"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    assert "device type my_dev (pci)" in shown.stdout


@pytest.mark.parametrize("name", ["", "My", "a--b", "5x", "vmm-x", "a/b", "a.b", "ü"])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="NAME"):
        write_plugin(name, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="not empty"):
        write_plugin("x", str(tmp_path))
