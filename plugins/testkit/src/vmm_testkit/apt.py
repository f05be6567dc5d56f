# SPDX-License-Identifier: Apache-2.0
"""Debian packages of any suite and architecture, without root: an apt whose sources, lists and status are its own."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from vmm_testkit.arch import SUITE, Arch
from vmm_testkit.cache import cache_dir, locked
from vmm_testkit.host import debian_mirror, run

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: seconds for which lists of another architecture are used
_FRESH = 20 * 3600.0


class Apt:
    """This machine's apt. ``error`` is what is raised, with one line and ``hint`` behind it."""

    def __init__(self, error: type[Exception], options: Sequence[str] = (), hint: str = "") -> None:
        self._error = error
        self._options = list(options)
        self._hint = hint

    def cache(self, *words: str) -> str:
        """What ``apt-cache WORDS`` prints."""
        return run(self._error, "apt-cache", *self._options, *words, hint=self._hint)

    def version(self, package: str) -> str:
        """The package's candidate version; "" if there is none."""
        found = re.search(r"^Version: (\S+)$", self.cache("show", "--no-all-versions", package), re.MULTILINE)
        return found[1] if found else ""

    def get(self, *words: str, cwd: Path | None = None) -> str:
        """What ``apt-get -q WORDS`` prints."""
        return run(self._error, "apt-get", *self._options, "-q", *words, cwd=cwd, hint=self._hint)


class PrivateApt(Apt):
    """An apt in which nothing is installed yet. All it keeps is in ``root``; nothing on this machine is changed.

    Args:
        error: what is raised, with one line.
        root: its directory (made by :meth:`update`).
        mirror: where the suites are.
        suites: names of suites ("bookworm"), of which the last one is preferred.
        arch: Debian's name of the architecture ("arm64"); default: this machine's.
    """

    def __init__(
        self, error: type[Exception], root: Path, mirror: str, suites: Sequence[str], *, arch: str = ""
    ) -> None:
        self._mirror = mirror
        self._suites = list(suites)
        self.root = root
        sources, preferences, status = (root / name for name in ("sources.list", "preferences", "status"))
        options = [
            "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::Etc::Preferences={preferences}", "-o", "Dir::Etc::PreferencesParts=/dev/null",
            "-o", f"Dir::State::Lists={root / 'lists'}", "-o", f"Dir::State::status={status}",
            "-o", f"Dir::Cache={root / 'cache'}", "-o", f"Dir::State::extended_states={root / 'states'}",
            "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        if arch:
            options += ["-o", f"APT::Architecture={arch}", "-o", f"APT::Architectures={arch}"]
        super().__init__(error, options)

    def update(self) -> None:
        """Fetch the suites' lists."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        signed = f" [signed-by={_KEYS}]" if _KEYS.exists() else ""
        lines = [f"deb{signed} {self._mirror} {suite} main\n" for suite in self._suites]
        (self.root / "sources.list").write_text("".join(lines))
        pin = f"Package: *\nPin: release n={self._suites[-1]}\nPin-Priority: 990\n" if len(lines) > 1 else ""
        (self.root / "preferences").write_text(pin)
        (self.root / "status").write_text("")
        self.get("update")

    def unpack(self, tree: Path, packages: Sequence[str]) -> None:
        """Unpack the packages and all that they depend on into the tree; none of their scripts is run."""
        archives = self.root / "cache/archives"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        self.get("-y", "--no-install-recommends", "--download-only", "install", *packages)
        try:
            for deb in sorted(archives.glob("*.deb")):
                run(self._error, "dpkg-deb", "-x", str(deb), str(tree))
        finally:
            shutil.rmtree(archives)


def foreign_apt(error: type[Exception], arch: Arch, suite: str = SUITE) -> PrivateApt:
    """An apt for Debian's packages of another architecture or suite, with lists of today, kept in the cache."""
    root = cache_dir("apt") / f"{suite}-{arch.debian}"
    apt = PrivateApt(error, root, debian_mirror(error, SUITE), (suite,), arch=arch.debian)
    stamp = root / "updated"
    with locked(root.with_name(f".{root.name}.lock")):
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > _FRESH:
            apt.update()
            stamp.touch()
    return apt
