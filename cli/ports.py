"""Free ports, chosen below the range from which the system serves outgoing connections.

A port that the system hands out (`bind` to 0) lies in that range, and after a restart some client's connection may sit
on it. A cluster node listens on a second port as well, its own plus 10,000, and that one has to be free too.

Between the choice and the server's `listen` lie seconds, in which another process may choose too. So a process marks
what it has chosen, as long as it lives: on Linux, by a name among those of sockets that are no files.
"""

import random
import socket
import sys

from cli.errors import StackError

BUS_OFFSET = 10_000
FIRST, LAST = 17_000, 22_700  # with the bus 27,000-32,700; Linux lends from 32,768, macOS from 49,152


def free_ports(count: int, *, avoid: frozenset[int] = frozenset()) -> list[int]:
    """So many ports on which nothing listens, each with its bus port; in no order, none of `avoid`.

    Raises `StackError` if there are fewer.
    """
    found: list[int] = []
    if count <= LAST - FIRST:
        for port in random.sample(range(FIRST, LAST), LAST - FIRST):
            if len(found) == count:
                break
            if port not in avoid and is_free(port) and is_free(port + BUS_OFFSET) and _is_mine(port):
                found.append(port)
    if len(found) < count:
        raise StackError(f"{count} free ports are needed between {FIRST} and {LAST}, and there are {len(found)}.")
    return found


def _is_mine(port: int) -> bool:
    """Whether no living process has chosen the port, this one among them; from now on this one has."""
    if sys.platform != "linux":
        return True
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0rangeboard-port-{port}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # open until the process ends
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
