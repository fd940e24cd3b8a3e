"""A data directory remembers what it must, shows it to nobody, and is never mistaken for another folder."""

import os

import pytest

from cli.errors import StackError
from cli.state import DataDirectory, StackState, new_key
from runtime.settings import Settings

STATE = StackState(
    primaries=1,
    replicas=0,
    ports={"redis-1": 17001, "broker": 17002, "postgres": 17003, "api": 8080, "metrics": 9464, "worker-metrics": 9465},
    postgres_home="/somewhere",
    postgres_account=None,
    postgres_password="secret",
    api_key="rb_key",
    socket="/somewhere/supervisor.sock",
)


@pytest.fixture
def directory(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    return directory


def test_what_is_saved_is_loaded(directory):
    directory.save(STATE)
    assert directory.load() == STATE


def test_only_the_owner_may_read_it(directory):
    directory.save(STATE)
    assert directory.state_file.stat().st_mode & 0o777 == 0o600


def test_a_new_folder_remembers_nothing(directory):
    assert directory.load() is None


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(StackError, match="not empty and no data directory"):
        DataDirectory(tmp_path).make()


def test_what_an_early_death_leaves_is_no_stranger(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "postgres").mkdir()
    DataDirectory(tmp_path).make()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 7}', "another version of Rangeboard"),
        ("{}", "another version of Rangeboard"),
        ('{"version": 2}', "damaged"),
        ('{"versi', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(directory, content, message):
    directory.state_file.write_text(content)
    with pytest.raises(StackError, match=message):
        directory.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of somebody else")
def test_a_directory_of_another_user_is_refused(directory):
    directory.save(STATE)
    os.chown(directory.state_file, 65534, 65534)
    with pytest.raises(StackError, match="belongs to another user"):
        directory.load()


def test_two_starts_at_once_are_kept_apart(directory):
    other = DataDirectory(directory.path)
    with directory.lock(), pytest.raises(StackError, match="is starting"), other.lock():
        pass
    with other.lock():
        pass


def test_processes_are_told_the_addresses_and_no_replica_is_waited_for_where_there_is_none():
    settings = STATE.settings(Settings(ack_replicas=1, shards=7))
    assert settings.redis_nodes == "127.0.0.1:17001"
    assert settings.broker_url == "redis://127.0.0.1:17002/0"
    assert settings.postgres_dsn == "postgresql://postgres:secret@127.0.0.1:17003/rangeboard"
    assert (settings.ack_replicas, settings.shards, settings.api_port) == (0, 7, 8080)


def test_keys_are_long_and_never_the_same():
    assert len({new_key() for _ in range(100)}) == 100
    assert all(key.startswith("rb_") and len(key) == 35 for key in (new_key(), new_key()))
