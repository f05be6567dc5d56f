# SPDX-License-Identifier: Apache-2.0
"""The exceptions of vmm: each says what was wrong and how to mend it, in one line."""

from __future__ import annotations


class ExitCode:
    """Exit statuses of `vmm run`, documented in ``docs/cli.md``. 128+N: ended by signal N."""

    OK = 0
    FAILURE = 1
    #: a wrong option, a plugin that is missing or broken, a host without usable KVM: nothing was started
    USAGE = 2
    PANIC = 5
    GUEST = 6  # the guest itself asked for a non-zero exit
    TRIPLE_FAULT = 7
    KVM_ERROR = 8


class VmmError(Exception):
    """Base of all errors of vmm. `exit_code` is what the CLI exits with."""

    exit_code = ExitCode.FAILURE


def origin(error: BaseException) -> tuple[str, int] | None:
    """File and line of the innermost frame that the exception came through; None if it was never raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else None


class UserError(VmmError):
    """A bad value from a person. `option` names where it came from (``--memory``, ``--disk path=``)."""

    exit_code = ExitCode.USAGE

    def __init__(self, option: str, problem: str, mend: str = "") -> None:
        super().__init__(f"{option}: {problem}" + (f"; {mend}" if mend else ""))
        self.option, self.problem, self.mend = option, problem, mend


class PluginError(VmmError):
    """A plugin that was asked for by name cannot be used."""

    exit_code = ExitCode.USAGE


class HostError(VmmError):
    """This host lacks something: /dev/kvm, a permission, a KVM capability."""

    exit_code = ExitCode.USAGE


class KvmError(HostError):
    """A KVM ioctl failed. Names the ioctl, errno and the likely cause."""

    exit_code = ExitCode.KVM_ERROR

    def __init__(self, ioctl: str, errno: int, hint: str = "") -> None:
        import os

        super().__init__(f"{ioctl}: {os.strerror(errno)} (errno {errno})" + (f"; {hint}" if hint else ""))
        self.ioctl, self.errno = ioctl, errno


class GuestError(VmmError):
    """The runner or the guest refused a request (its answer is the message)."""

    #: it answered, and said why not; else it is gone, did not answer, or has a bug
    refused = False
