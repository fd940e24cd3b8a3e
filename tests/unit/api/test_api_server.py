"""What stands between gunicorn and a client's socket."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from api.server import _Together


@pytest.fixture
def ends() -> Iterator[tuple[_Together, socket.socket]]:
    """An answer's way to a client, and the client."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with closing(ours), closing(theirs):
        yield _Together(ours), theirs


def test_the_head_goes_with_what_follows(ends: tuple[_Together, socket.socket]) -> None:
    """And what follows then goes at once, as the parts of a stream must."""
    answer, client = ends
    answer.sendall(b"head ")
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    client.settimeout(5)
    for part in (b"first", b"second"):
        answer.sendall(part)
        assert client.recv(100) == (b"head first" if part == b"first" else part)
    answer.flush()
    answer.shutdown(socket.SHUT_RDWR)
    assert client.recv(100) == b"", "nothing is sent twice"


def test_a_head_without_a_body_is_sent_in_the_end(ends: tuple[_Together, socket.socket]) -> None:
    answer, client = ends
    answer.sendall(b"head")
    answer.flush()
    assert client.recv(100) == b"head"


def test_of_an_answer_that_was_given_up_nothing_is_sent(ends: tuple[_Together, socket.socket]) -> None:
    """Its head would say that all is well."""
    answer, client = ends
    answer.sendall(b"head")
    answer.shutdown(socket.SHUT_WR)
    answer.flush()
    assert client.recv(100) == b""
