"""Free ports, chosen below the range from which the system serves outgoing connections.

A port that the system hands out (`bind` to 0) lies in that range, and after a restart some client's connection may sit
on it. A cluster node listens on a second port as well, its own plus 10,000, and that one has to be free too.
"""

import random
import socket

from cli.errors import StackError

BUS_OFFSET = 10_000
FIRST, LAST = 17_000, 22_700  # with the bus 27,000-32,700; Linux lends from 32,768, macOS from 49,152


def free_ports(count: int, *, avoid: frozenset[int] = frozenset()) -> list[int]:
    """So many ports on which nothing listens, each with its bus port; in no order, none of `avoid`.

    Raises `StackError` if there are fewer.
    """
    found: list[int] = []
    for port in random.sample(range(FIRST, LAST), LAST - FIRST):
        if len(found) == count:
            break
        if port not in avoid and is_free(port) and is_free(port + BUS_OFFSET):
            found.append(port)
    if len(found) < count:
        raise StackError(f"{count} free ports are needed between {FIRST} and {LAST}, and there are {len(found)}.")
    return found


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now; connections that linger after a server's end do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
