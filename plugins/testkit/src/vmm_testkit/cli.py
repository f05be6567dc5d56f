# SPDX-License-Identifier: Apache-2.0
"""``vmm lab -- COMMAND``: run a command on an emulated host that has a complete KVM."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from vmm_testkit.arch import ARCHES, arch_of

EXIT_USAGE = 2
EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_STALLED = 125


@click.command(
    context_settings={
        "ignore_unknown_options": False,
        "allow_interspersed_args": False,
        "help_option_names": ["-h", "--help"],
    }
)
@click.option(
    "--arch", type=click.Choice(list(ARCHES)), help="The emulated host's architecture (default: this machine's)."
)
@click.option("--memory", type=click.IntRange(min=256), default=4096, show_default=True, help="RAM, MiB.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True, help="Emulated host CPUs.")
@click.option(
    "--icount", is_flag=True, help="Let the clock count instructions: repeatable times, one CPU, slower."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Share this directory for writing; all else is lost."
)
@click.option(
    "--drive", "drives", multiple=True, metavar="NAME=FILE", help="A file as a disk; what is written to it is lost."
)
@click.option("--tty", is_flag=True, help="Connect the command to this terminal (leave with Ctrl-A x).")
@click.option("--iommu", is_flag=True, help="Give the emulated host an IOMMU, for VFIO.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds for all."
)
@click.option(
    "--stall-timeout", type=click.FloatRange(min=1), help="Give up after so many seconds of silence."
)
@click.option("--qemu-arg", "qemu_args", multiple=True, help="One more argument for QEMU; may be repeated.")
@click.option("--direct-if-usable", is_flag=True, help="Run the command right here where KVM is complete.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def lab(
    arch: str | None,
    memory: int,
    cpus: int,
    icount: bool,
    out: Path | None,
    drives: tuple[str, ...],
    tty: bool,
    iommu: bool,
    timeout: float,
    stall_timeout: float | None,
    qemu_args: tuple[str, ...],
    direct_if_usable: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in the lab: an emulated host with a complete KVM, on any machine.

    The command sees this machine's files and directory as they are, and may write anywhere, but what it
    writes is lost (see --out). On another architecture it sees a Debian of that one instead of /usr, /etc
    and their like, and this repository's packages built for it. It has no standard input (see --tty). The exit
    status is the command's; 124 when the time is over, 125 when the lab stalled or broke, 2 when it cannot start.
    """
    from vmm_testkit.initramfs import InitramfsError
    from vmm_testkit.kernels import KernelError
    from vmm_testkit.lab import Lab, LabError, LabMissing, LabStalled, LabTimeout

    if direct_if_usable and arch_of(arch or "").native:
        from vmm_testkit.kvm import kvm_state

        if kvm_state().runs_linux:
            try:
                os.execvp(command[0], command)
            except OSError as error:
                _fail(f"{command[0]}: {error.strerror}", 127)
    if tty and not (sys.stdin.isatty() and sys.stdout.isatty()):
        _fail("--tty: standard input and output are not a terminal; leave --tty out", EXIT_USAGE)
    for option in drives:
        if not all(option.partition("=")):
            _fail(f"--drive {option}: write it as NAME=FILE", EXIT_USAGE)
    machine = Lab(
        memory_mib=memory,
        arch=arch or "",
        cpus=cpus,
        icount=icount,
        out=out,
        tty=tty,
        stall_timeout=stall_timeout,
        intel_iommu=iommu,
        qemu_args=qemu_args,
        drives={name: Path(file) for name, _, file in (option.partition("=") for option in drives)},
    )
    try:
        status = machine.run(command, timeout=timeout)
    except LabTimeout as error:
        _fail(f"{error} (--timeout {timeout:g})", EXIT_TIMEOUT)
    except LabStalled as error:
        _fail(str(error), EXIT_STALLED)
    except LabError as error:
        _fail(str(error), EXIT_USAGE if isinstance(error, LabMissing) else EXIT_STALLED)
    except (InitramfsError, KernelError) as error:
        _fail(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _fail(message: str, status: int) -> None:
    click.echo(f"vmm lab: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    lab(prog_name="vmm lab")
