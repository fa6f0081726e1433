"""R23: whoever asks for a connection beyond this machine, or for the address of another one, fails at once."""

import socket
from typing import Any

_HERE = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}


class NetworkAsked(BaseException):
    """Not an `Exception`, so that no library takes it for a network that happens to be down."""


def block_network() -> None:
    """Let Python's sockets reach this machine only, for the rest of the process and its forks."""
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _checked(getattr(socket.socket, name)))
    lookup = socket.getaddrinfo

    def local_lookup(host: Any, *others: Any, **named: Any) -> Any:
        _check(host)
        return lookup(host, *others, **named)

    socket.getaddrinfo = local_lookup


def _checked(connect: Any) -> Any:
    def local_connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return connect(self, address)

    return local_connect


def _check(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in _HERE | {socket.gethostname()} and not str(name).startswith("127."):
        raise NetworkAsked(f"asked for {name}, expected no connection beyond this machine")
