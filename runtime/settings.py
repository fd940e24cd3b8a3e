"""Every setting of every process, in one table: name, type, default, unit and reason.

A setting `ack_replicas` is the environment variable `RANGEBOARD_ACK_REPLICAS`, with the same name on a laptop, in
compose and in Kubernetes. Settings are read once, at the start, and are frozen; a value that does not fit stops the
process with one sentence that names the variable. `docs/settings.md` is generated from this table.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from msgspec.structs import fields

from runtime import failpoints

PREFIX = "RANGEBOARD_"

_MOST_NODE_TIMEOUT_MS = 60_000
_LEAST_SECRET = 16
_ADDRESS = re.compile(r"[^\s,:/@]+:[1-9][0-9]{0,4}|\[[0-9a-fA-F:]+\]:[1-9][0-9]{0,4}")


class SettingsError(ValueError):
    """A setting is missing, of the wrong type, or contradicts another; the message names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process. Units are in the names; descriptions are the documentation."""

    # -- where the servers are
    redis_nodes: Annotated[str, Meta(description="Redis Cluster nodes to start from, `host:port,host:port`")] = (
        "127.0.0.1:7001"
    )
    broker_url: Annotated[str, Meta(description="Celery's broker: a standalone Redis, never the cluster")] = (
        "redis://127.0.0.1:7000/0"
    )
    postgres_dsn: Annotated[str, Meta(description="PostgreSQL, as a libpq URL")] = (
        "postgresql://postgres@127.0.0.1:5432/rangeboard"
    )
    redis_server: Annotated[str, Meta(description="redis-server or valkey-server to use instead of the wheel's")] = ""
    postgres_bin: Annotated[str, Meta(description="Folder with initdb and postgres, instead of the wheel's")] = ""

    # -- durability and deadlines
    ack_replicas: Annotated[
        int, Meta(ge=0, le=5, description="Replicas that must have a write before it is answered")
    ] = 1
    ack_timeout_ms: Annotated[int, Meta(ge=1, description="How long a write waits for those replicas")] = 500
    without_replicas: Annotated[
        Literal["continue", "refuse"],
        Meta(description="When no replica confirms: go on with `durable: false`, or answer 503"),
    ] = "continue"
    request_deadline_ms: Annotated[int, Meta(ge=50, description="The longest a request may take in all")] = 3000
    node_timeout_ms: Annotated[int, Meta(ge=10, description="The longest wait for one reply of one Redis node")] = 1000
    node_connections: Annotated[int, Meta(ge=1, description="Connections a process may open to one Redis node")] = 32

    # -- boards
    shards: Annotated[int, Meta(ge=1, le=4096, description="Shards of a new period")] = 16
    median_points: Annotated[int, Meta(ge=1, description="Expected median points, for a new period's first cuts")] = 60
    points_sigma: Annotated[
        float, Meta(gt=0, le=10, description="Spread of log points around the median, for a new period's first cuts")
    ] = 1.1
    retry_window_s: Annotated[int, Meta(ge=1, description="A retry is recognised for at least this long")] = 3600
    directory_partitions: Annotated[int, Meta(ge=1, le=4096, description="Slots a board's directory spreads over")] = 64
    directory_buckets: Annotated[
        int, Meta(ge=1, description="Hashes a new period's directory is cut into; aim at 50 to 400 players in each")
    ] = 16384
    directory_cache: Annotated[int, Meta(ge=0, description="Directory entries each API process remembers")] = 200_000
    late_minutes: Annotated[int, Meta(ge=0, description="How long a past period takes late submissions")] = 10

    # -- audit
    outbox_limit: Annotated[
        int, Meta(ge=1, description="Undrained outbox entries of one shard past which writes are refused with 503")
    ] = 200_000
    drain_batch: Annotated[int, Meta(ge=1, description="Outbox entries drained in one transaction")] = 2_000

    audit_months: Annotated[
        int, Meta(ge=0, description="Months of the audit log that are kept once they are archived; 0 keeps all")
    ] = 0
    archive_grace_days: Annotated[
        int, Meta(ge=0, le=90, description="How long Redis keeps a period after its final ranking is stored")
    ] = 7

    # -- serving
    api_host: Annotated[str, Meta(description="Address the API listens on")] = "127.0.0.1"
    api_port: Annotated[int, Meta(ge=0, le=65535, description="Port of the API")] = 8080
    metrics_port: Annotated[int, Meta(ge=0, le=65535, description="Port of the API's Prometheus metrics")] = 9464
    worker_metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="Port of the workers' Prometheus metrics; 0 serves none")
    ] = 9465
    api_workers: Annotated[int, Meta(ge=1, description="gunicorn worker processes")] = 2
    api_connections: Annotated[int, Meta(ge=1, description="Connections one API worker serves at once")] = 1000
    reads_open: Annotated[bool, Meta(description="Reads of tops and ranks need no key")] = True
    top_cache_ms: Annotated[
        int, Meta(ge=0, le=5000, description="A process reads a board's top at most this often; 0: for every request")
    ] = 200
    stream_listeners: Annotated[
        int, Meta(ge=0, le=100_000, description="How many may listen to the top (`/stream`) in one API worker")
    ] = 500
    cursor_secret: Annotated[
        str,
        Meta(description="Key that page cursors are signed with; without one it is derived from the PostgreSQL URL"),
    ] = ""
    max_body_bytes: Annotated[int, Meta(ge=1024, description="Largest request body, after decompression")] = 8_388_608

    # -- observing
    log_format: Annotated[Literal["json", "console"], Meta(description="One JSON object a line, or for a person")] = (
        "json"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level shown")] = (
        "info"
    )

    # -- testing
    failpoints: Annotated[
        str, Meta(description="Where processes shall die, for fault tests (`runtime/failpoints.py`); empty to serve")
    ] = ""

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, to hand to a child process."""
        values = msgspec.to_builtins(self)
        return {PREFIX + name.upper(): _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings named by the environment; an unknown `RANGEBOARD_` variable is a mistake, and is said to be one."""
    given = {name[len(PREFIX) :].lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    known = set(Settings.__struct_fields__)
    if unknown := sorted(set(given) - known):
        raise SettingsError(f"{PREFIX}{unknown[0].upper()} is not a setting; docs/settings.md lists them")
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise SettingsError(f"{PREFIX}{path.rstrip('`').upper()}: {reason}") from error
    for name, fits, wanted in _rules(settings):
        if not fits:
            raise SettingsError(f"{PREFIX}{name.upper()}: {wanted}")
    return settings


def _rules(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """What no type says: the setting, whether it fits, and what is wanted. Also what contradicts another setting."""
    nodes = settings.redis_nodes.split(",")
    broker = urlsplit(settings.broker_url)
    dsn = settings.postgres_dsn
    yield "redis_nodes", all(map(_ADDRESS.fullmatch, nodes)), "wanted are addresses as host:port,host:port"
    yield (
        "broker_url",
        broker.scheme in {"redis", "rediss"} and bool(broker.netloc),
        "wanted is a URL as redis://host:port/0",
    )
    yield (
        "broker_url",
        broker.netloc.rpartition("@")[2] not in nodes,
        f"this is a node of the cluster ({PREFIX}REDIS_NODES); Celery needs a Redis of its own",
    )
    yield (
        "postgres_dsn",
        dsn.startswith(("postgresql://", "postgres://")) or "=" in dsn,
        "wanted is a URL as postgresql://user@host:port/database",
    )
    yield (
        "metrics_port",
        not settings.metrics_port or settings.metrics_port != settings.api_port,
        f"this is the port of the API ({PREFIX}API_PORT)",
    )
    yield (
        "ack_timeout_ms",
        settings.ack_timeout_ms < settings.request_deadline_ms,
        f"a request is over before ({PREFIX}REQUEST_DEADLINE_MS={settings.request_deadline_ms})",
    )
    yield (
        "without_replicas",
        settings.without_replicas != "refuse" or settings.ack_replicas > 0,
        f"nothing can be refused for want of replicas when none is waited for ({PREFIX}ACK_REPLICAS=0)",
    )
    yield "failpoints", not failpoints.trouble(settings.failpoints), failpoints.trouble(settings.failpoints)
    yield (
        "node_timeout_ms",
        settings.node_timeout_ms <= _MOST_NODE_TIMEOUT_MS,
        f"every failover waits for it: wanted is what is within {_MOST_NODE_TIMEOUT_MS // 1000} s at the most",
    )
    yield (
        "cursor_secret",
        not settings.cursor_secret or len(settings.cursor_secret) >= _LEAST_SECRET,
        f"whoever guesses it can make cursors: wanted are {_LEAST_SECRET} characters at least, or none",
    )
    yield (
        "directory_buckets",
        settings.directory_buckets >= settings.directory_partitions,
        f"there must be one for each partition at least ({PREFIX}DIRECTORY_PARTITIONS={settings.directory_partitions})",
    )


def table() -> str:
    """All settings as a table in Markdown: what `docs/settings.md` holds."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for field in fields(Settings):
        kind, *about = get_args(field.type)
        meta = about[0] if about else Meta()
        choices = f" (one of {', '.join(f'`{choice}`' for choice in get_args(kind))})" if get_args(kind) else ""
        default = f"`{_text(field.default)}`" if field.default != "" else ""
        lines.append(f"| `{PREFIX}{field.name.upper()}` | {default} | {meta.description or ''}{choices} |")
    return "\n".join(lines) + "\n"
