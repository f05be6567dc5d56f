# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: fixtures for guests, markers for what they need, and ``--lab``."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vmm_testkit.arch import ARCHES, arch_of

if TYPE_CHECKING:
    from vmm_testkit.arch import Arch
    from vmm_testkit.baremetal import BareMetal
    from vmm_testkit.guest import DebianGuest
    from vmm_testkit.kernels import Kernel
    from vmm_testkit.kvm import KvmState
    from vmm_testkit.lab import Lab
    from vmm_testkit.net import Link

_guests: pytest.StashKey[list[DebianGuest]] = pytest.StashKey()
_kvm: pytest.StashKey[KvmState] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmm", "virtual machines")
    group.addoption(
        "--lab",
        action="store_true",
        help="run the whole session in an emulated host with a complete KVM, unless this machine's own is complete",
    )
    group.addoption(
        "--lab-arch", choices=list(ARCHES), help="like --lab, with a host of that architecture (default: this machine's)"
    )
    group.addoption(
        "--lab-memory", type=int, default=4096, metavar="MIB", help="RAM of that host (default 4096)"
    )
    group.addoption("--lab-cpus", type=int, default=1, metavar="N", help="CPUs of that host (default 1)")
    group.addoption(
        "--lab-timeout", type=float, default=1800.0, metavar="S", help="seconds for all of it (default 1800)"
    )
    group.addoption(
        "--lab-stall", type=float, metavar="S", help="give a lab up that prints nothing for S seconds (default: never)"
    )
    group.addoption(
        "--lab-retries", type=int, default=0, metavar="N", help="start again up to N times after --lab-stall (default 0)"
    )
    group.addoption(
        "--lab-tests", type=int, default=0, metavar="N", help="at most N tests in one lab, then another (default: all)"
    )
    group.addoption(
        "--lab-drive", action="append", default=[], metavar="NAME=FILE", help="a disk of that host; may be repeated"
    )
    group.addoption("--soak", action="store_true", help="long tests: minutes of load, hundreds of rounds")
    group.addoption("--lab-out", metavar="DIR", help="directory that tests in the lab may write to for good")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "arch(name, reason): only for hosts of that architecture"
    )
    config.addinivalue_line(
        "markers", "linux_guest: needs a KVM that runs stock Linux (complete, or the lab's)"
    )
    config.addinivalue_line("markers", "needs_kvm: needs a KVM that runs tiny guests")
    # Taken out: a pytest that a test starts is no part of this session.
    record, most = os.environ.pop("VMM_LAB_RECORD", ""), os.environ.pop("VMM_LAB_TESTS", "0")
    if record:
        from vmm_testkit.spread import Part

        config.pluginmanager.register(Part(config, Path(record), int(most)), "vmm-lab-part")


LAB_OPTIONS = (
    "--lab-memory", "--lab-cpus", "--lab-timeout", "--lab-stall", "--lab-retries", "--lab-tests", "--lab-out",
    "--lab-drive", "--lab-arch",
)  # fmt: skip


def without_lab_options(args: list[str]) -> list[str]:
    """pytest's arguments as they are for the session in the lab."""
    kept: list[str] = []
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif arg in LAB_OPTIONS:
            skip = True
        elif arg != "--lab" and not arg.startswith(tuple(f"{option}=" for option in LAB_OPTIONS)):
            kept.append(arg)
    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--lab``: hand the session to a pytest in the lab, and its exit code back."""
    if not (config.getoption("--lab") or config.getoption("--lab-arch")) or config.option.help:
        return None
    arch = arch_of(config.getoption("--lab-arch") or "")
    from vmm_testkit.kvm import kvm_state
    from vmm_testkit.lab import Lab, LabError, in_lab

    if in_lab() or (arch.native and kvm_state().runs_linux):
        return None
    from vmm_testkit.initramfs import InitramfsError
    from vmm_testkit.kernels import KernelError

    with tempfile.TemporaryDirectory(prefix="vmm-lab-") as scratch:
        out = Path(config.getoption("--lab-out") or scratch).absolute()
        lab = Lab(
            arch=arch.name,
            memory_mib=config.getoption("--lab-memory"),
            cpus=config.getoption("--lab-cpus"),
            out=out,
            stall_timeout=config.getoption("--lab-stall"),
            drives=_drives(config.getoption("--lab-drive"), arch),
        )
        try:
            return _run_in(lab, config, out / f".record-{os.getpid()}")
        except (LabError, InitramfsError, KernelError) as error:
            raise pytest.UsageError(f"--lab: {error}") from None


def _drives(options: list[str], arch: Arch) -> dict[str, Path]:
    """The lab's disks: those asked for, and some of the root file system of ``debian_system`` if it is built."""
    from vmm_testkit.cache import cache_dir
    from vmm_testkit.kernels import KernelError, debian_kernel
    from vmm_testkit.system import lab_drives

    drives = {}
    for option in options:
        name, equals, file = option.partition("=")
        if not (name and equals and file):
            raise pytest.UsageError(f"--lab-drive {option}: write it as NAME=FILE")
        drives[name] = Path(file)
    if not any(cache_dir("roots").glob("*.img")):
        return drives  # without a kernel fetched for nothing
    try:
        return drives | lab_drives(debian_kernel(arch.flavours[0]))
    except KernelError:
        return drives


def _run_in(lab: Lab, config: pytest.Config, record: Path) -> int:
    """The session, in the lab or spread over several."""
    from vmm_testkit.spread import run_spread

    # The cache of the last failures could not be kept there anyway.
    command = [lab.python, "-m", "pytest", "-p", "no:cacheprovider"]
    if sys.stdout.isatty() and config.option.color == "auto":
        command += ["--color=yes"]
    command += without_lab_options(list(config.invocation_params.args))

    def run(env: dict[str, str]) -> int:
        return lab.run(command, cwd=config.invocation_params.dir, env=env, timeout=config.getoption("--lab-timeout"))

    if not config.getoption("--lab-tests") and not config.getoption("--lab-retries"):
        return run({})
    width = shutil.get_terminal_size().columns if config.get_verbosity() >= 0 else None
    try:
        return run_spread(config, run, record, width)
    finally:
        record.unlink(missing_ok=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is for another architecture, or what this machine's KVM cannot do; with the reason and the mend."""
    for mark in item.iter_markers("arch"):
        if mark.args[0] != platform.machine():
            pytest.skip(f"only for {mark.args[0]}: {mark.kwargs['reason']}")
    linux = item.get_closest_marker("linux_guest") is not None
    if not linux and item.get_closest_marker("needs_kvm") is None:
        return
    from vmm_testkit.kvm import LAB_MEND, kvm_state

    if _kvm not in item.config.stash:
        item.config.stash[_kvm] = kvm_state()
    state = item.config.stash[_kvm]
    if linux and not state.runs_linux:
        pytest.skip(
            f"needs a KVM that runs stock Linux, here it is {state.state}: {state.reason}; {LAB_MEND}"
        )
    if not linux and not state.runs_tiny_guests:
        pytest.skip(f"needs KVM, here it is {state.state}: {state.reason}; {LAB_MEND}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the consoles of a failed test's guests."""
    report = yield
    if report.failed:
        guests: list[DebianGuest] = item.stash.get(_guests, [])
        for number, guest in enumerate(guests, start=1):
            report.sections.append((f"console of guest {number}", guest.console[-20000:]))
            if guest.stderr:
                report.sections.append((f"VMM of guest {number}", guest.stderr[-20000:]))
    return report


@pytest.fixture(scope="session")
def _kernels() -> Callable[[str], Kernel]:
    from vmm_testkit.kernels import KernelError, debian_kernel

    known: dict[str, Kernel] = {}

    def get(flavour: str) -> Kernel:
        if flavour not in known:
            try:
                known[flavour] = debian_kernel(flavour)
            except KernelError as error:
                pytest.skip(f"no Debian kernel: {error}")
        return known[flavour]

    return get


@pytest.fixture
def debian_kernel(request: pytest.FixtureRequest, _kernels: Callable[[str], Kernel]) -> Kernel:
    """A stock Debian kernel: "cloud", or the flavour of an indirect parametrize ("standard", "cloud-arm64")."""
    return _kernels(getattr(request, "param", "cloud"))


@pytest.fixture
def initramfs_factory(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """``initramfs_factory(**keywords of Initramfs) -> Path``; modules come from ``debian_kernel`` unless told."""
    from vmm_testkit.initramfs import Initramfs

    def make(**keywords: Any) -> Path:
        if "kernel" not in keywords:
            keywords["kernel"] = request.getfixturevalue("debian_kernel")
        return Initramfs(**keywords).build()

    return make


@pytest.fixture
def debian_guest(
    request: pytest.FixtureRequest, initramfs_factory: Callable[..., Path]
) -> Iterator[Callable[..., DebianGuest]]:
    """``debian_guest(*args for the VMM, **keywords of DebianGuest) -> DebianGuest``, started.

    ``modules``, ``files`` and ``programs`` go to the initramfs, unless ``initramfs`` is given. ``kernel``
    defaults to the fixture ``debian_kernel``. All guests are killed at the end of the test.
    """
    from vmm_testkit.guest import DebianGuest

    guests: list[DebianGuest] = []
    request.node.stash[_guests] = guests

    def make(*args: str, **keywords: Any) -> DebianGuest:
        kernel = keywords.pop("kernel", None) or request.getfixturevalue("debian_kernel")
        wait = keywords.pop("wait", True)
        content = {name: keywords.pop(name) for name in ("modules", "files", "programs") if name in keywords}
        image = keywords.pop("initramfs", None)
        if image is None:
            source = {"kernel": kernel} if content.get("modules") else {"kernel": None}
            image = initramfs_factory(**source, **content)
        keywords["args"] = [*args, *keywords.get("args", ())]
        guest = DebianGuest(kernel, image, **keywords)
        guests.append(guest)
        return guest.start(wait=wait)

    yield make
    for guest in guests:
        guest.kill()


@pytest.fixture
def debian_system(
    request: pytest.FixtureRequest, debian_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., DebianGuest]]:
    """``debian_system(*args for the VMM, **keywords of DebianGuest) -> DebianGuest``: a Debian with systemd.

    Its root is a disk of its own, which it may write to; ``disk_options`` (``"num_queues=4"``) go into that
    disk's ``--disk``, and ``disk=False`` leaves it out (the test gives it in ``args``, where ``{root}`` stands
    for its path). The other keywords are those of ``debian_guest``.
    """
    from vmm_testkit.lab import in_lab
    from vmm_testkit.roots import RootError
    from vmm_testkit.system import DebianSystem, borrowed_root

    guests: list[DebianGuest] = []
    request.node.stash[_guests] = guests
    with contextlib.ExitStack() as stack:

        def make(*args: str, **keywords: Any) -> DebianGuest:
            try:
                root = stack.enter_context(borrowed_root(debian_kernel, tmp_path_factory.getbasetemp()))
            except RootError as error:
                hint = f"; build it outside of the lab first: python -m vmm_testkit.system {platform.machine()}" if in_lab() else ""
                pytest.skip(f"no Debian root file system: {error}{hint}")
            wait = keywords.pop("wait", True)
            guest = DebianSystem(debian_kernel, root, args=[*args, *keywords.pop("args", ())], **keywords)
            guests.append(guest)
            return guest.start(wait=wait)

        yield make
        for guest in guests:
            guest.kill()


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``soak(quick, long)``: how often, or for how many seconds; ``long`` with ``--soak``."""
    return lambda quick, long: long if request.config.getoption("--soak") else quick


@pytest.fixture
def host_link() -> Iterator[Callable[..., Link]]:
    """``host_link(name, kind, **keywords of net.Link) -> Link``: a TAP, a bridge …, removed at the end of the test."""
    from vmm_testkit.lab import in_lab
    from vmm_testkit.net import Link, NetError

    if not in_lab():
        pytest.skip("changes the host's network: run it in the lab (pytest --lab)")
    with contextlib.ExitStack() as stack:

        def make(name: str, kind: str = "tap", **keywords: Any) -> Link:
            try:
                return stack.enter_context(Link(name, kind, **keywords))
            except NetError as error:
                pytest.fail(str(error))

        yield make


@pytest.fixture
def baremetal() -> Callable[..., BareMetal]:
    """``baremetal(source, **keywords of BareMetal) -> BareMetal``: a guest compiled from C."""
    if platform.machine() != "x86_64":
        pytest.skip("bare-metal guests are x86-64 programs")
    from vmm_testkit.baremetal import BareMetal

    return BareMetal
