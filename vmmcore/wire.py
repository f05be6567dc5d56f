# SPDX-License-Identifier: Apache-2.0
"""Control messages between front and runner: JSON datagrams with file descriptors.

One message is one datagram on an ``AF_UNIX``/``SOCK_SEQPACKET`` socket pair; descriptors
travel as ``SCM_RIGHTS`` (unix(7)). A message that is too long for a datagram travels in a
memfd, which is then the first descriptor. Kinds of messages::

    {"id": 7, "op": "pause", …}                             front -> runner
    {"id": 7, "ok": {…}}  or  {"id": 7, "error": "…"}       runner -> front
    {"event": "paused", …}                                  runner -> front

Both ends distrust each other: what is malformed raises ValueError, and no descriptor leaks.
The `json` package is not imported: the runner has no time for it.
"""

from __future__ import annotations

import _socket
import os
import sys
from _json import encode_basestring_ascii
from binascii import a2b_base64, b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: bytes of the longest message
MAX_MESSAGE = 1 << 20
MAX_FDS = 64
MAX_DEPTH = 64
_DATAGRAM = 64 << 10


def encode(message: Any) -> bytes:
    """JSON of plain data; bytes become ``{"$bytes": BASE64}``. Raises ValueError."""
    parts: list[str] = []
    try:
        _encode(message, parts.append)
    except RecursionError:
        raise ValueError("nested too deeply to be sent") from None
    return "".join(parts).encode("ascii")


def _encode(value: Any, put: Callable[[str], None]) -> None:
    if value is None or value is True or value is False:
        put("null" if value is None else "true" if value else "false")
    elif isinstance(value, str):
        put(encode_basestring_ascii(value))
    elif isinstance(value, int):
        put(int.__repr__(value))
    elif isinstance(value, float):
        if value - value != 0.0:
            raise ValueError(f"{value} cannot be sent")
        put(float.__repr__(value))
    elif isinstance(value, list | tuple):
        separator = "["
        for item in value:
            put(separator)
            _encode(item, put)
            separator = ","
        put("]" if value else "[]")
    elif isinstance(value, dict):
        separator = "{"
        for key, item in value.items():
            put(f"{separator}{encode_basestring_ascii(key if isinstance(key, str) else str(key))}:")
            _encode(item, put)
            separator = ","
        put("}" if value else "{}")
    elif isinstance(value, bytes | bytearray | memoryview):
        put('{"$bytes":"' + b2a_base64(value, newline=False).decode() + '"}')
    else:
        raise ValueError(f"{type(value).__name__} cannot be sent")


def decode(data: bytes) -> Any:
    """The value of one JSON text (and nothing after it). Raises ValueError for everything else."""
    text = data.decode()
    try:
        value, position = _value(text, _blank(text, 0), 0)
    except IndexError:
        raise ValueError("message cut short") from None
    if _blank(text, position) != len(text):
        raise ValueError("something follows the message")
    return value


_WORDS: dict[str, tuple[str, Any]] = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_DIGITS = "0123456789"


def _blank(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


def _value(text: str, position: int, depth: int) -> tuple[Any, int]:
    char = text[position]
    if char == '"':
        return _string(text, position + 1)
    if char in "{[":
        if depth >= MAX_DEPTH:
            raise ValueError("message nested too deeply")
        return (_object if char == "{" else _array)(text, _blank(text, position + 1), depth + 1)
    if char in _WORDS:
        word, value = _WORDS[char]
        if text.startswith(word, position):
            return value, position + len(word)
    return _number(text, position)


def _object(text: str, position: int, depth: int) -> tuple[Any, int]:
    result: dict[str, Any] = {}
    while text[position] != "}" or result:
        if text[position] != '"':
            raise ValueError("an object's key must be text")
        key, position = _string(text, position + 1)
        position = _blank(text, position)
        if text[position] != ":":
            raise ValueError("a key lacks its colon")
        result[key], position = _value(text, _blank(text, position + 1), depth)
        position = _blank(text, position)
        if text[position] == "}":
            break
        if text[position] != ",":
            raise ValueError("an object lacks a comma")
        position = _blank(text, position + 1)
    if len(result) == 1 and "$bytes" in result:
        if not isinstance(result["$bytes"], str):
            raise ValueError("$bytes holds no text")
        return a2b_base64(result["$bytes"].encode(), strict_mode=True), position + 1
    return result, position + 1


def _array(text: str, position: int, depth: int) -> tuple[list[Any], int]:
    result: list[Any] = []
    while text[position] != "]" or result:
        item, position = _value(text, position, depth)
        result.append(item)
        position = _blank(text, position)
        if text[position] == "]":
            break
        if text[position] != ",":
            raise ValueError("an array lacks a comma")
        position = _blank(text, position + 1)
    return result, position + 1


def _string(text: str, position: int) -> tuple[str, int]:
    parts: list[str] = []
    end = -1
    escape = -1
    while True:
        if end < position:
            end = text.find('"', position)
            if end < 0:
                raise ValueError("text without an end")
        if -1 <= escape < position:
            escape = text.find("\\", position)
            escape = escape if escape >= 0 else -2
        if escape < 0 or end < escape:
            parts.append(_plain(text[position:end]))
            return "".join(parts), end + 1
        parts.append(_plain(text[position:escape]))
        letter = text[escape + 1]
        position = escape + 2
        if letter == "u":
            code = _hex4(text, position)
            position += 4
            if 0xD800 <= code < 0xDC00 and text.startswith("\\u", position):
                low = _hex4(text, position + 2)
                if 0xDC00 <= low < 0xE000:
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                    position += 6
            parts.append(chr(code))
        elif letter in _ESCAPES:
            parts.append(_ESCAPES[letter])
        else:
            raise ValueError("an escape that JSON does not have")


def _plain(text: str) -> str:
    if not text.isprintable() and any(char < " " for char in text):
        raise ValueError("a control character in text")
    return text


def _hex4(text: str, position: int) -> int:
    digits = text[position : position + 4]
    if len(digits) != 4 or not digits.isalnum() or not digits.isascii():
        raise ValueError("a malformed escape")
    return int(digits, 16)


def _number(text: str, position: int) -> tuple[Any, int]:
    start = position
    if text[position] == "-":
        position += 1
    digits = position
    while text[position : position + 1] in _DIGITS and position < len(text):
        position += 1
    if position == digits or (text[digits] == "0" and position - digits > 1):
        raise ValueError("malformed message")
    whole = True
    if text[position : position + 1] == ".":
        whole, position = False, position + 1
        while text[position : position + 1] in _DIGITS and position < len(text):
            position += 1
        if text[position - 1] == ".":
            raise ValueError("malformed number")
    if text[position : position + 1] in ("e", "E"):
        whole, position = False, position + 1
        if text[position : position + 1] in ("+", "-"):
            position += 1
        if text[position] not in _DIGITS:
            raise ValueError("malformed number")
        while text[position : position + 1] in _DIGITS and position < len(text):
            position += 1
    if position - start > 400:
        raise ValueError("a number of too many digits")
    word = text[start:position]
    return (int(word) if whole else float(word)), position


def decode_message(data: bytes) -> dict[str, Any]:
    """As :func:`decode`, for one that must be an object."""
    value = decode(data)
    if not isinstance(value, dict):
        raise ValueError("a message must be an object")
    return value


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Two connected ends, both close-on-exec."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)


def from_fd(fd: int) -> _socket.socket:
    """The end whose descriptor was inherited; owns `fd` from now on."""
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


def send(sock: _socket.socket, message: dict[str, Any], fds: list[int] | tuple[int, ...] = ()) -> None:
    """Send one message; `fds` stay open here. Raises ValueError (cannot be sent) and OSError."""
    data = encode(message)
    if len(data) > MAX_MESSAGE or len(fds) > MAX_FDS:
        raise ValueError(f"message of {len(data)} bytes and {len(fds)} descriptors is too large")
    if len(data) <= _DATAGRAM:
        _send(sock, data, fds)
        return
    memfd = os.memfd_create("vmm-message", os.MFD_CLOEXEC)
    try:
        os.pwrite(memfd, data, 0)
        _send(sock, encode({"$memfd": len(data)}), [memfd, *fds])
    finally:
        os.close(memfd)


def _send(sock: _socket.socket, data: bytes, fds: list[int] | tuple[int, ...]) -> None:
    rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    sock.sendmsg(
        [data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else [], _socket.MSG_NOSIGNAL
    )


def receive(sock: _socket.socket, flags: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec, now the caller's); None: the other end is gone.

    Raises ValueError for what is no message, and OSError (BlockingIOError with MSG_DONTWAIT in `flags`).
    """
    data, ancillary, status, _ = sock.recvmsg(
        _DATAGRAM, _socket.CMSG_SPACE(4 * (MAX_FDS + 1)), flags | _socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    try:
        for level, kind, rights in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds += [
                    int.from_bytes(rights[i : i + 4], sys.byteorder) for i in range(0, len(rights) - 3, 4)
                ]
        if status & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("message too long")
        if not data:
            if fds:
                raise ValueError("empty message")
            return None
        message = decode_message(data)
        if "$memfd" in message:
            if not fds:
                raise ValueError("message without its memory")
            message = decode_message(_from_memfd(fds.pop(0), message["$memfd"]))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds


def _from_memfd(fd: int, size: Any) -> bytes:
    try:
        if type(size) is not int or not 0 < size <= MAX_MESSAGE:
            raise ValueError("message too long")
        if os.fstat(fd).st_mode & 0o170000 != 0o100000:
            raise ValueError("message memory is no file")
        try:
            data = os.pread(fd, size, 0)
        except OSError as error:
            raise ValueError(f"message memory: {error.strerror}") from None
        if len(data) != size:
            raise ValueError("message cut short")
        return data
    finally:
        os.close(fd)
