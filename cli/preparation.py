"""Everything that can be wrong before a start, checked, and everything that is chosen once, chosen.

Ports and passwords are remembered in the data directory. A port that somebody took meanwhile is chosen anew, which is
safe for every server here: addresses are handed out at each start, and a cluster node at another port is met again.
"""

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cli import programs
from cli.errors import StackError
from cli.ports import BUS_OFFSET, free_ports, is_free, reserve
from cli.postgres import make_home
from cli.stack import Stack
from cli.state import DataDirectory, StackState, new_key
from cli.supervisor import choose_socket
from runtime.settings import Settings

DISK_BYTES = 500_000_000
PRIMARIES, REPLICAS = 3, 1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `up` was asked for; None: as before, or the default."""

    port: int | None = None
    primaries: int | None = None
    replicas: int | None = None
    shards: int | None = None
    api_workers: int | None = None


def prepare(directory: DataDirectory, wishes: Wishes, given: Settings) -> tuple[Stack, list[str]]:
    """The stack to start in this folder, made or found there, with all that can be wrong checked; and what to tell.

    Raises `StackError` if it runs already, belongs to another shape, or the machine lacks something.
    """
    notes = []
    given = _adjusted(given, wishes)
    programs.redis_binary(given)
    directory.make()
    old = Stack.existing(directory, given)
    if old is not None:
        if old.supervisor.answers():
            raise StackError(f"{directory.path} is running already at {old.state.api_url}.")
        _refuse_another_shape(old.state, wishes)
        if ended := old.end_leftovers():
            notes.append(f"ended {ended} processes that a crash had left behind")
    _require_disk(directory.path)
    if not is_free(given.api_port, given.api_host):
        raise StackError(f"Port {given.api_port} is in use: choose another with --port.")
    if old is None:
        state = _new_state(directory, wishes, given)
    else:
        ports, moved = checked_ports({**old.state.ports, "api": given.api_port})
        notes += moved
        state = msgspec.structs.replace(old.state, ports=ports, socket=choose_socket(directory))
    directory.save(state)
    _require_disk(state.home.directory)
    return Stack(directory, state, given), notes


def checked_ports(ports: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """The remembered ports, with others for those that somebody took meanwhile, and what to say of it."""
    checked, notes = dict(ports), []
    for name, port in ports.items():
        bus_free = is_free(port + BUS_OFFSET) if name.startswith("redis-") else True
        # The API's port is whatever it was asked to be; whoever asks may have reserved it.
        if not (is_free(port) and bus_free and (name == "api" or reserve(port))):
            checked[name] = free_ports(1, avoid=frozenset(checked.values()))[0]
            notes.append(f"port {port} of {name} is in use by somebody else; it moves to {checked[name]}")
    return checked, notes


def _adjusted(given: Settings, wishes: Wishes) -> Settings:
    asked = {"api_port": wishes.port, "shards": wishes.shards, "api_workers": wishes.api_workers}
    adjusted = msgspec.structs.replace(given, **{name: value for name, value in asked.items() if value is not None})
    return adjusted if adjusted.api_port else msgspec.structs.replace(adjusted, api_port=free_ports(1)[0])


def _new_state(directory: DataDirectory, wishes: Wishes, given: Settings) -> StackState:
    primaries = PRIMARIES if wishes.primaries is None else wishes.primaries
    replicas = REPLICAS if wishes.replicas is None else wishes.replicas
    names = [f"redis-{place}" for place in range(1, primaries * (1 + replicas) + 1)]
    names += ["broker", "postgres", "metrics", "worker-metrics"]
    ports = dict(zip(names, free_ports(len(names), avoid=frozenset({given.api_port})), strict=True))
    if given.metrics_port and is_free(given.metrics_port) and reserve(given.metrics_port):
        ports["metrics"] = given.metrics_port
    if given.worker_metrics_port and is_free(given.worker_metrics_port) and reserve(given.worker_metrics_port):
        ports["worker-metrics"] = given.worker_metrics_port
    home = make_home(directory.path / "postgres")
    return StackState(
        primaries=primaries,
        replicas=replicas,
        ports={**ports, "api": given.api_port},
        postgres_home=str(home.directory),
        postgres_account=home.account,
        postgres_password=secrets.token_urlsafe(16),
        api_key=new_key(),
        socket=choose_socket(directory),
    )


def _refuse_another_shape(state: StackState, wishes: Wishes) -> None:
    for what in ("primaries", "replicas"):
        has, wanted = getattr(state, what), getattr(wishes, what)
        if wanted not in {None, has}:
            raise StackError(
                f"This data directory holds a cluster with --{what} {has}: leave the option out, or choose another "
                "--data-dir."
            )


def _require_disk(path: Path) -> None:
    free = shutil.disk_usage(path).free
    if free < DISK_BYTES:
        raise StackError(
            f"Only {free // 1_000_000} MB are free below {path}, and {DISK_BYTES // 1_000_000} MB are needed: make "
            "room, or choose another --data-dir."
        )
