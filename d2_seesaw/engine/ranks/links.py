"""Connections between ranks that carry short messages and never block, and their addresses."""

import json
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

_LONGEST = 1 << 20  # bytes of an unfinished message
# A dead machine sends nothing. The kernel then ends the connection after about 30 s.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """Close inherited sockets, which would hide from the others that their rank has died."""
    for inherited in list(_sockets):
        inherited.close()


os.register_at_fork(after_in_child=_close_in_child)


class Link:
    """Connection to another rank that carries JSON objects, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Otherwise the last message waits until the one before it has been acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _KEEP_ALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        _sockets.add(connection)
        self.socket = connection
        self.is_open = True
        self._unfinished = b""

    def send(self, **message: Any) -> None:
        """Send a message; it is dropped if the other side has stopped reading."""
        try:
            self.socket.send(json.dumps(message).encode() + b"\n")
        except OSError:  # the end of the connection is seen when it is read
            return

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived; at its end, ``is_open`` becomes False."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if not data or len(self._unfinished) > _LONGEST:
            self.close()
        return [message for message in map(_decoded, lines) if isinstance(message, dict)]

    def close(self) -> None:
        """Close the connection, after what was sent.

        Closed with messages that were not read, it would be reset, and messages that the other side
        has not received yet would be lost.
        """
        self.is_open = False
        with suppress(OSError):  # BlockingIOError: everything that has arrived is read
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(1 << 16):
                pass
        self.socket.close()


def _decoded(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # not from a rank
        return None


def listen(*, only_this_machine: bool) -> socket.socket:
    """Return a listening socket on a free port."""
    if only_this_machine:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    elif socket.has_dualstack_ipv6():
        listener = socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    else:
        listener = socket.create_server(("", 0), backlog=1024)
    listener.setblocking(False)
    _sockets.add(listener)
    return listener


def connect(addresses: list[str], port: int, timeout: float = 5.0) -> Link:
    """Return a link to the first address that answers.

    Raises:
        OSError: none of them answered.
    """
    failures = []
    for address in addresses:
        try:
            return Link(socket.create_connection((address, port), timeout=timeout))
        except OSError as error:
            failures.append(f"{address} ({error})")
    raise OSError(f"no connection to port {port} of {', '.join(failures)}")


def own_addresses(reached: str) -> list[str]:
    """Return addresses of this machine, the likely one for the other ranks first.

    Args:
        reached: an address that all ranks can reach, such as the one of their store.
    """
    found = []
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(reached, 9, type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing: it chooses the interface
            found.append(probe.getsockname()[0])
    except OSError:
        pass
    # A machine may know its own name as a loopback address, which is another machine elsewhere.
    far = [address for address in found if not address.startswith("127.") and address != "::1"]
    return list(dict.fromkeys([*far, reached, socket.gethostname(), *found]))


def this_machine() -> str:
    """Return what processes have in common that see the same process numbers; "" if unknown."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""
