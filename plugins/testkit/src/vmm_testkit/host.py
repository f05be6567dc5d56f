# SPDX-License-Identifier: Apache-2.0
"""Programs of this machine, and what its apt knows. Errors are of the caller's kind, one line each."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def run(
    error: type[Exception], *command: str, cwd: Path | None = None, hint: str = "", timeout: float = 900.0
) -> str:
    """What the command prints. Raises `error` with what it says when it fails, and `hint` behind that."""
    name = Path(command[0]).name
    hint = f"; {hint}" if hint else ""
    if shutil.which(command[0]) is None:
        raise error(f"{name} is missing{hint}")
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise error(f"{name} has not ended after {timeout:.0f} s{hint}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        said = [line for line in lines if line.startswith("E:")] or lines[-1:]
        raise error(f"{name}: {said[0]}{hint}")
    return done.stdout


def find(error: type[Exception], program: str, package: str) -> str:
    """Path of the program, also of those that only root has on its path. Raises `error` that names the package."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise error(f"{program} is missing: run `apt-get install {package}` as root")
    return found


def debian_mirror(error: type[Exception], suite: str = "") -> str:
    """Where Debian comes from: ``$VMM_DEBIAN_MIRROR``, else where this machine's apt has the suite from, or any.

    Raises `error` when neither says so.
    """
    if chosen := os.environ.get("VMM_DEBIAN_MIRROR"):
        return chosen.rstrip("/")
    words = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    text = run(error, "apt-get", "indextargets", "--format", words, "Created-By: Packages", timeout=60)
    for line in text.splitlines():
        release, component, uri = line.split(" ", 2)
        if component == "main" and (release == suite if suite else release.isalpha()):
            return uri.rstrip("/")
    raise error(f"apt knows no Debian{' ' + suite if suite else ''}: run `apt-get update` as root")
