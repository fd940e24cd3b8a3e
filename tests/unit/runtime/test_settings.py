"""Settings: read once, checked at once, and what is wrong is named by the variable that the operator set."""

import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.settings import PREFIX, Settings, SettingsError, load


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}) == Settings()
    assert load({"PATH": "/bin", "RANGEBOARDX": "1"}) == Settings()


def test_a_variable_sets_the_setting_of_its_name() -> None:
    given_settings = load(
        {
            "RANGEBOARD_ACK_REPLICAS": "2",
            "RANGEBOARD_REDIS_NODES": "a:1,b:2",
            "RANGEBOARD_POINTS_SIGMA": "0.5",
            "RANGEBOARD_READS_OPEN": "false",
            "RANGEBOARD_LOG_FORMAT": "console",
        }
    )
    assert given_settings.ack_replicas == 2
    assert given_settings.redis_nodes == "a:1,b:2"
    assert given_settings.points_sigma == 0.5
    assert given_settings.reads_open is False
    assert given_settings.log_format == "console"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans(text: str, value: bool) -> None:
    assert load({"RANGEBOARD_READS_OPEN": text}).reads_open is value


@pytest.mark.parametrize("name", ["SHARD", "REDIS_NODE", "ACK-REPLICAS", "", "_SHARDS", "SETTINGS"])
def test_a_variable_that_sets_nothing_is_a_mistake(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name} is not a setting"):
        load({PREFIX + name: "1", "RANGEBOARD_SHARDS": "8"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHARDS", "many"),
        ("SHARDS", ""),
        ("SHARDS", "0"),
        ("SHARDS", "4097"),
        ("SHARDS", "8.5"),
        ("SHARDS", "null"),
        ("POINTS_SIGMA", "0"),
        ("POINTS_SIGMA", "wide"),
        ("POINTS_SIGMA", "nan"),
        ("POINTS_SIGMA", "inf"),
        ("READS_OPEN", "maybe"),
        ("LOG_LEVEL", "INFO"),
        ("WITHOUT_REPLICAS", "ignore"),
        ("API_PORT", "65536"),
        ("ACK_REPLICAS", "-1"),
        ("REQUEST_DEADLINE_MS", "10"),
        ("MAX_BODY_BYTES", "1e400"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({PREFIX + name: value})
    message = str(refused.value)
    assert message.startswith(f"{PREFIX}{name}: ")
    assert "\n" not in message
    assert len(message) > len(f"{PREFIX}{name}: "), "and it says why"


@pytest.mark.parametrize(
    ("given_text", "variable", "said"),
    [
        ({"REDIS_NODES": ""}, "REDIS_NODES", "host:port"),
        ({"REDIS_NODES": "localhost"}, "REDIS_NODES", "host:port"),
        ({"REDIS_NODES": "a:1,,b:2"}, "REDIS_NODES", "host:port"),
        ({"REDIS_NODES": "a:1, b:2"}, "REDIS_NODES", "host:port"),
        ({"REDIS_NODES": "redis://a:1"}, "REDIS_NODES", "host:port"),
        ({"BROKER_URL": ""}, "BROKER_URL", "redis://host:port/0"),
        ({"BROKER_URL": "broker:6379"}, "BROKER_URL", "redis://host:port/0"),
        ({"BROKER_URL": "redis://:word@a:1/0", "REDIS_NODES": "b:2,a:1"}, "BROKER_URL", "RANGEBOARD_REDIS_NODES"),
        ({"POSTGRES_DSN": ""}, "POSTGRES_DSN", "postgresql://"),
        ({"POSTGRES_DSN": "mysql://h/db"}, "POSTGRES_DSN", "postgresql://"),
        ({"API_PORT": "9464"}, "METRICS_PORT", "RANGEBOARD_API_PORT"),
        ({"ACK_TIMEOUT_MS": "3000"}, "ACK_TIMEOUT_MS", "RANGEBOARD_REQUEST_DEADLINE_MS=3000"),
        ({"WITHOUT_REPLICAS": "refuse", "ACK_REPLICAS": "0"}, "WITHOUT_REPLICAS", "RANGEBOARD_ACK_REPLICAS=0"),
        ({"DIRECTORY_BUCKETS": "63"}, "DIRECTORY_BUCKETS", "RANGEBOARD_DIRECTORY_PARTITIONS=64"),
    ],
)
def test_what_is_missing_or_contradicts_is_named(given_text: dict[str, str], variable: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({PREFIX + name: value for name, value in given_text.items()})
    message = str(refused.value)
    assert message.startswith(f"{PREFIX}{variable}: ")
    assert said in message
    assert "\n" not in message


_SERVING = {
    "api": ["gunicorn", "-c", "python:api.gunicorn_conf", "api.app:create_app()"],
    "worker": ["celery", "--quiet", "-A", "workers.app:app", "worker"],
    "beat": ["celery", "--quiet", "-A", "workers.app:app", "beat"],
    "reconciler": ["k8s.reconciler", "reconcile", "--primaries", "3", "--replicas", "1"],
    "migrate": ["cli.main", "migrate"],
}


@pytest.mark.parametrize("process", _SERVING)
def test_every_process_stops_at_once_with_one_sentence(process: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *_SERVING[process]],
        env={**os.environ, "RANGEBOARD_BROKER_URL": "redis://127.0.0.1:7001/0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    (sentence,) = (done.stdout + done.stderr).splitlines()
    assert "RANGEBOARD_BROKER_URL: this is a node of the cluster" in sentence


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load({}).shards = 8  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    """docs/settings.md is made of these."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    assert set(hints) == set(Settings.__struct_fields__)
    for name, hint in hints.items():
        (meta,) = hint.__metadata__
        assert meta.description, name


@given(
    st.builds(
        Settings,
        redis_server=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
        postgres_bin=st.sampled_from(["null", "0", "true", ""]),
        redis_nodes=st.sampled_from(["a:1", "redis-0.redis:6379,redis-1.redis:6379", "[::1]:7001"]),
        postgres_dsn=st.sampled_from(["postgresql://u:p%40ss@h:5432/db?sslmode=require", "host=h dbname=db"]),
        ack_replicas=st.integers(1, 5),
        points_sigma=st.floats(0.001, 9.0),
        reads_open=st.booleans(),
        shards=st.integers(1, 4096),
        without_replicas=st.sampled_from(["continue", "refuse"]),
    )
)
@hypothesis_settings(deadline=None)
def test_a_child_process_gets_the_same_settings(chosen: Settings) -> None:
    environment = chosen.environment()
    assert load(environment) == chosen
    assert load({"PATH": "/bin", **environment}) == chosen
    assert all(name.startswith(PREFIX) and isinstance(value, str) for name, value in environment.items())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FAILPOINTS", "zzz=kill", "there is no point 'zzz'; the points are write.claimed, handoff.begun"),
        ("FAILPOINTS", "handoff.begun", "a failpoint is written name=kill"),
        ("NODE_TIMEOUT_MS", "99999999", "within 60 s at the most"),
        ("CURSOR_SECRET", "k", "16 characters at least"),
    ],
)
def test_what_could_not_serve_stops_a_process_at_its_start(name: str, value: str, words: str) -> None:
    """In one sentence that names the variable."""
    with pytest.raises(SettingsError, match=f"{PREFIX}{name}: .*{words}"):
        load({PREFIX + name: value})


def test_known_failpoints_and_long_secrets_are_taken() -> None:
    taken = load(
        {
            f"{PREFIX}FAILPOINTS": "handoff.begun=kill@0.5, drain.stored=raise",
            f"{PREFIX}NODE_TIMEOUT_MS": "60000",
            f"{PREFIX}CURSOR_SECRET": "x" * 16,
        }
    )
    assert taken.cursor_secret == "x" * 16
