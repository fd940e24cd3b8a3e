"""What a data directory remembers: ports, passwords and the cluster's size, so that a restart finds its data again.

One file, `stack.json`, readable by its owner only, for it holds the API key and the database's password. It is also
what tells a data directory from any other folder: one with files but without it is never written to, let alone removed.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cli.errors import StackError
from cli.postgres import Home
from cli.programs import HOST
from runtime.settings import Settings

VERSION = 2
"""Of the layout of a data directory."""

FIRST_FILES = {"lock", "postgres", "stack.new"}  # what a start that was killed early leaves


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `stack.json`."""

    version: int = VERSION
    primaries: int
    replicas: int
    ports: dict[str, int]  # redis-1 …, broker, postgres, api, metrics, worker-metrics
    postgres_home: str
    postgres_account: str | None
    postgres_password: str
    api_key: str
    socket: str  # of the supervisor

    @property
    def redis_ports(self) -> dict[str, int]:
        """The ports of the cluster's nodes, by name."""
        return {name: port for name, port in self.ports.items() if name.startswith("redis-")}

    @property
    def home(self) -> Home:
        """Where PostgreSQL lives."""
        return Home(Path(self.postgres_home), self.postgres_account)

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://{HOST}:{self.ports['api']}"

    @property
    def metrics_url(self) -> str:
        """Where the API's metrics are."""
        return f"http://{HOST}:{self.ports['metrics']}/metrics"

    @property
    def broker_url(self) -> str:
        """Celery's broker."""
        return f"redis://{HOST}:{self.ports['broker']}/0"

    @property
    def postgres_dsn(self) -> str:
        """The database, as a libpq URL."""
        return f"postgresql://postgres:{self.postgres_password}@{HOST}:{self.ports['postgres']}/rangeboard"

    def settings(self, given: Settings) -> Settings:
        """The settings of the stack's processes: the given ones, with the addresses of these servers."""
        return msgspec.structs.replace(
            given,
            redis_nodes=",".join(f"{HOST}:{port}" for port in self.redis_ports.values()),
            broker_url=self.broker_url,
            postgres_dsn=self.postgres_dsn,
            ack_replicas=min(given.ack_replicas, self.replicas),
            api_port=self.ports["api"],
            metrics_port=self.ports["metrics"],
            worker_metrics_port=self.ports["worker-metrics"],
        )


class DataDirectory:
    """A folder that holds one stack, existing or to be made."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.state_file = self.path / "stack.json"
        self.logs = self.path / "logs"
        self.run = self.path / "run"

    def make(self) -> None:
        """Create the folder, unless it is there; refuse one that holds something else."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o711)  # PostgreSQL's account may have to pass
        strangers = {entry.name for entry in self.path.iterdir()} - FIRST_FILES
        if strangers and not self.state_file.exists():
            raise StackError(
                f"{self.path} is not empty and no data directory of Rangeboard: choose another --data-dir."
            )

    def load(self) -> StackState | None:
        """What is remembered, or None in a new folder. Raises `StackError` for what this version cannot read."""
        try:
            content = self.state_file.read_bytes()
            owner = self.state_file.stat().st_uid
        except FileNotFoundError:
            return None
        if owner != os.geteuid():
            raise StackError(f"{self.path} belongs to another user: run the command as that user, or choose another.")
        try:
            version = msgspec.json.decode(content).get("version")
            if version != VERSION:
                raise StackError(
                    f"{self.path} was made by another version of Rangeboard (layout {version}, this one reads "
                    f"{VERSION}): choose another --data-dir, or remove it."
                )
            return msgspec.json.decode(content, type=StackState)
        except (msgspec.DecodeError, AttributeError) as error:
            raise StackError(f"{self.state_file} is damaged ({error}): choose another --data-dir.") from error

    def save(self, state: StackState) -> None:
        """Remember, at once or not at all."""
        draft = self.state_file.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
        draft.replace(self.state_file)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second `up` out while this one starts; the system releases it if we die."""
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(f"Another `rangeboard up` is starting on {self.path}.") from None
            yield


def new_key() -> str:
    """A secret for the API."""
    return f"rb_{secrets.token_urlsafe(24)}"
