"""One primary of a stack, spoken to in commands that were packed beforehand.

The driver must not be what is measured: it sends bytes that lie ready, and reads replies with hiredis' own parser.
"""

import socket
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import redis
from redis.connection import Connection

from cli.stack import Stack
from sharding.slots import key_slot

_READ = 1 << 16
_PATIENCE_S = 60.0

Command = tuple[Any, ...]


class Node:
    """A connection with any number of commands on their way."""

    def __init__(self, stack: Stack) -> None:
        port = next(iter(stack.state.redis_ports.values()))
        self.client = redis.Redis(port=port, socket_timeout=_PATIENCE_S)
        self._packer = Connection(port=port)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = hiredis.Reader()
        self._slots = {
            slot
            for first, last, holder, *_ in self.client.execute_command("CLUSTER SLOTS")
            if holder[1] == port
            for slot in range(first, last + 1)
        }

    def close(self) -> None:
        """End the connections."""
        self._socket.close()
        self.client.close()

    def owns(self, slot: int) -> bool:
        """Whether it serves a slot."""
        return slot in self._slots

    def key(self, name: str) -> str:
        """A key that it serves."""
        numbered = (f"{name}:{number}" for number in range(100_000))
        return next(key for key in numbered if self.owns(key_slot(key.encode())))

    def packed(self, commands: Iterable[Command]) -> bytes:
        """Commands as they are sent."""
        return b"".join(self._packer.pack_commands(commands))

    def send(self, packed: bytes) -> None:
        """Send commands."""
        self._socket.sendall(packed)

    def read(self, count: int) -> list[Any]:
        """The next replies; raises the first that is an error."""
        replies: list[Any] = []
        while len(replies) < count:
            reply = self._replies.gets()
            if reply is False:  # not there whole
                self._replies.feed(self._socket.recv(_READ))
            elif isinstance(reply, hiredis.ReplyError):
                raise reply
            else:
                replies.append(reply)
        return replies

    def call(self, *commands: Command) -> list[Any]:
        """The replies to commands that are sent together."""
        self.send(self.packed(commands))
        return self.read(len(commands))

    def cpu_us(self, messages: Sequence[bytes], replies: int) -> tuple[float, list[Any]]:
        """The node's CPU a message, in microseconds, and what it said; so many replies to each."""
        said: list[Any] = []
        before = self._cpu_s()
        for message in messages:
            self.send(message)
            said += self.read(replies)
        return (self._cpu_s() - before) / len(messages) * 1e6, said

    def _cpu_s(self) -> float:
        """Told by the node itself: what the system tells of a process is whole hundredths of a second."""
        spent = self.client.info("cpu")
        return float(spent["used_cpu_user"] + spent["used_cpu_sys"])
