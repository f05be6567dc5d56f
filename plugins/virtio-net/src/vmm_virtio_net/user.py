# SPDX-License-Identifier: Apache-2.0
"""User-mode networking: a helper process (passt, else slirp) on the other end of a socket pair.

No file of the host is involved: the socket has no name, and a helper ends when the VM's end of it is closed,
however that came about.
"""

from __future__ import annotations

from vmmcore.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: seconds that a helper may take to start
_PATIENCE = 15


class Forward:
    """``ports=[tcp:8080:80]``: a port of the host that leads to one of the guest."""

    def __init__(self, text: str, option: str) -> None:
        parts = text.split(":")
        self.protocol = parts.pop(0) if parts[0] in ("tcp", "udp") else "tcp"
        self.address = parts.pop(0) if len(parts) == 3 else "127.0.0.1"
        if len(parts) == 1:
            parts *= 2
        bad = UserError(option, f"'{text}' is not a port to forward", "write [tcp|udp:][ADDRESS:]HOST_PORT:GUEST_PORT")
        if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) < 65536 for part in parts):
            raise bad
        if not all(part.isdecimal() and int(part) < 256 for part in self.address.split(".")) or \
                self.address.count(".") != 3:
            raise bad
        self.host, self.guest = int(parts[0]), int(parts[1])


def start(ports: Sequence[str], mtu: int | None, option: str) -> tuple[int, str]:
    """Start a helper: our end of the socket, and its kind (``stream`` or ``packet``). Raises UserError."""
    import shutil

    forwards = [Forward(text, f"{option} ports=") for text in ports]
    passt = shutil.which("passt", path=_path())
    if passt is not None:
        return _passt(passt, forwards, mtu, option), "stream"
    slirp = shutil.which("libslirp-helper", path=_path())
    if slirp is None:
        raise UserError(option, "user-mode networking needs passt, which is not installed",
                        "apt-get install passt (or libslirp-helper), or use --net tap=")
    if forwards:
        raise UserError(f"{option} ports=", "libslirp-helper cannot forward ports", "apt-get install passt")
    return _slirp(slirp, mtu, option), "packet"


def _path() -> str:
    """Where programs are: a service's PATH may lack the usual ones."""
    import os

    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/bin", "/usr/bin", "/bin"))


def _passt(program: str, forwards: Sequence[Forward], mtu: int | None, option: str) -> int:
    """passt goes into the background once it is ready, and ends when its socket is closed (--fd)."""
    import socket
    import subprocess

    command = [program, "--quiet", "--mtu", str(mtu or 65520)]
    for flag, protocol in (("-t", "tcp"), ("-u", "udp")):
        for forward in forwards:
            if forward.protocol == protocol:
                command += [flag, f"{forward.address}/{forward.host}:{forward.guest}"]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command += ["--fd", str(theirs.fileno())]
        try:
            done = subprocess.run(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise UserError(option, f"{program} does not get ready") from None
        except OSError as error:
            raise UserError(option, f"{program}: {error.strerror}", "reinstall passt") from None
        if done.returncode:
            said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            where = f"{option} ports=" if forwards and any("port" in line for line in said) else option
            raise UserError(where, f"passt ended with status {done.returncode}: {said[-1] if said else 'no message'}",
                            "try the same ports and this user with passt alone")
        ours.setblocking(False)
        return ours.detach()


def _slirp(program: str, mtu: int | None, option: str) -> int:
    """libslirp-helper under our guard, which ends it when the socket is closed."""
    import os
    import socket
    import subprocess
    import sys

    guard = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.py")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        number = str(theirs.fileno())
        try:
            done = subprocess.run([sys.executable, "-I", "-S", guard, number, program, "--exit-with-parent", "--mtu",
                                   str(mtu or 1500), "--fd", number], pass_fds=[theirs.fileno()], timeout=_PATIENCE,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  check=False)
        except subprocess.TimeoutExpired:
            raise UserError(option, f"{program} does not get ready") from None
        except OSError as error:
            raise UserError(option, f"{program}: {error.strerror}", "reinstall libslirp-helper") from None
        if done.stdout != b"ok\n":
            raise UserError(option, f"libslirp-helper does not start: {done.stdout.decode(errors='replace').strip()}",
                            "apt-get install passt")
        ours.setblocking(False)
        return ours.detach()
