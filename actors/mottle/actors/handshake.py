"""Both ends of a new connection show that they hold the run's key, before anything is read that could do harm.

Challenge and answer: each side sends a fresh random number, and proves the key by HMAC-SHA256 over both numbers, its role and the caller's
name. So a recorded exchange is of no use later, and neither side's proof can be sent back to it as its own.
"""

import hashlib
import hmac
import secrets
import socket

_NONCE = _NAME = _MAC = 32


def ask_for_key(sock: socket.socket, key: bytes) -> tuple[str, bytes]:
    """As the called side: the caller's name, and this side's proof, to be sent when the caller may begin.

    Raises:
        OSError: the caller does not hold the key, or says nothing.
    """
    nonce = secrets.token_bytes(_NONCE)
    sock.sendall(nonce)
    came = _exactly(sock, _NONCE + _NAME + _MAC)
    theirs, name = came[:_NONCE], came[_NONCE : _NONCE + _NAME]
    if not hmac.compare_digest(came[_NONCE + _NAME :], _mac(key, b"caller", nonce, theirs, name)):
        raise PermissionError("the caller does not hold the run's key")
    return name.rstrip(b"\0").decode(errors="replace"), _mac(key, b"called", theirs, nonce, name)


def show_key(sock: socket.socket, key: bytes, me: str) -> None:
    """As the calling side.

    Raises:
        OSError: the called side does not hold the key, refused this one, or says nothing.
    """
    name = me.encode().ljust(_NAME, b"\0")
    if len(name) != _NAME:
        raise ValueError(f"a name on a line has at most {_NAME} bytes, got {me!r}")
    nonce = secrets.token_bytes(_NONCE)
    theirs = _exactly(sock, _NONCE)
    sock.sendall(nonce + name + _mac(key, b"caller", theirs, nonce, name))
    if not hmac.compare_digest(_exactly(sock, _MAC), _mac(key, b"called", nonce, theirs, name)):
        raise PermissionError("whoever answers does not hold the run's key")


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"mottle line 1 " + b"".join(parts), hashlib.sha256)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError("the connection was closed before the key was shown")
        data += more
    return data
