"""How the processes of the embedded stack are started."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import programs


@pytest.fixture(autouse=True)
def _on_linux(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    programs.memory_of_node.cache_clear()
    yield
    programs.memory_of_node.cache_clear()


def _environment() -> dict[str, str]:
    return dict(programs.cluster_node("redis-1", "valkey-server", 7000, Path("/data")).environment)


def test_a_node_gets_the_allocator_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_library", {"jemalloc": "libjemalloc.so.2"}.get)
    assert _environment() == {"LD_PRELOAD": "libjemalloc.so.2"}


def test_without_that_the_c_library_keeps_more_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_library", lambda _: None)
    assert list(_environment()) == ["GLIBC_TUNABLES"]


def test_what_the_operator_has_loaded_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_library", {"jemalloc": "libjemalloc.so.2"}.get)
    monkeypatch.setenv("LD_PRELOAD", "theirs.so")
    assert _environment() == {}


def test_elsewhere_than_on_linux_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert _environment() == {}
