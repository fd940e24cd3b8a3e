"""Free ports, chosen below the range from which the system serves outgoing connections.

A port that the system hands out (`bind` to 0) lies in that range, and after a restart some client's connection may sit
on it. A cluster node listens on a second port as well, its own plus 10,000, and that one has to be free too.

Between the choice and the server's `listen` lie seconds, in which another process may choose too. So a process reserves
what it has chosen for as long as it lives: on Linux, by a name among those of sockets that are no files.
"""

import errno
import random
import socket
import sys

from cli.errors import StackError

BUS_OFFSET = 10_000
FIRST, LAST = 17_000, 22_700  # with the bus 27,000-32,700; Linux lends from 32,768, macOS from 49,152

_reserved: set[int] = set()


def free_ports(count: int, *, avoid: frozenset[int] = frozenset()) -> list[int]:
    """So many ports on which nothing listens, each with its bus port; in no order, none of `avoid`.

    Raises `StackError` if there are fewer.
    """
    found: list[int] = []
    if count <= LAST - FIRST:
        for port in random.sample(range(FIRST, LAST), LAST - FIRST):
            if len(found) == count:
                break
            taken = port in avoid or port in _reserved or not (is_free(port) and is_free(port + BUS_OFFSET))
            if not taken and reserve(port):
                found.append(port)
    if len(found) < count:
        raise StackError(f"{count} free ports are needed between {FIRST} and {LAST}, and there are {len(found)}.")
    return found


def reserve(port: int) -> bool:
    """Keep other processes from choosing this port; False if one that lives has reserved it."""
    if sys.platform == "linux" and port not in _reserved:
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0rangeboard-port-{port}")
        except OSError as error:
            name.close()
            if error.errno == errno.EADDRINUSE:
                return False
        else:
            name.detach()  # open until the process ends
    _reserved.add(port)
    return True


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now; connections that linger after a server's end do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
