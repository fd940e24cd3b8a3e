"""The operator's commands on a board that works or has lost something: what they say, and what they refuse."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest
import structlog
from click.testing import CliRunner, Result
from played_boards import OpenBoard, Played, rows_of, soon

import cli.options
from cli.main import main
from cli.servers import ServerSet
from sharding.leaderboard import _said

pytestmark = pytest.mark.servers

#: A verb on a board, as an operator types it.
Command = Callable[..., Result]


@pytest.fixture
def command(servers: ServerSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    # This process has other tests to run: its log is not to be what that of a command is.
    to_stderr = partial(structlog.configure, logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    monkeypatch.setattr(cli.options.logs, "configure", lambda *_: to_stderr())

    def run(board: Played, verb: str, *words: str) -> Result:
        ((database,),) = rows_of(board.engine, "SELECT current_database()")
        settings = msgspec.structs.replace(servers.settings, postgres_dsn=servers.postgres.dsn(database))
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
        where = ("--board", board.name.board, *(("--period", board.name.period) if verb != "rebalance" else ()))
        return CliRunner().invoke(main, [verb, *where, *words])

    yield run
    structlog.reset_defaults()


def played(open_one: OpenBoard) -> Played:
    board = open_one(cuts=(40, 70, 100))
    board.play(300, 900)
    board.drain()
    return board


def test_the_operator_sees_which_shard_and_which_partitions_are_lost(open_one: OpenBoard, command: Command) -> None:
    """All shards are listed, the lost one with the reason."""
    board = played(open_one)
    board.destroy_slot(2)
    board.destroy_partition(6)
    told = command(board, "shards")
    assert told.exit_code == 0, told.output
    assert "shard 2 on" in told.output
    assert "`rangeboard rebuild --shard` brings them back" in " ".join(told.output.split())
    assert "lost partitions of the directory: 2, 6" in told.output
    as_json = json.loads(command(board, "shards", "--json").output)
    assert [one["shard"] for one in as_json if one["problem"]] == [2]


def test_a_dry_run_of_one_shard_is_about_that_shard(open_one: OpenBoard, command: Command) -> None:
    """It tells what would come back there, changes nothing, and refuses what the rebuild would refuse."""
    board = played(open_one)
    before = board.ranking()
    rows = board.on_shard(1, "ZCARD", "@rows")
    board.drain()
    unknown = command(board, "rebuild", "--shard", "99", "--dry-run")
    assert (unknown.exit_code, "has no shard 99" in unknown.output) == (1, True)
    there = command(board, "rebuild", "--shard", "1", "--dry-run")
    assert (there.exit_code, "is there" in there.output) == (1, True)
    board.destroy_slot(1)
    told = json.loads(command(board, "rebuild", "--shard", "1", "--dry-run", "--json").stdout)
    assert (told["players"], told["shard"], told["dry_run"], told["generation"]) == (rows, 1, True, 1)
    assert board.leaderboard.lifecycle.states(board.now(), soon())[1] is None
    done = json.loads(command(board, "rebuild", "--shard", "1", "--json").stdout)
    assert (done["players"], done["shard"]) == (rows, 1)
    assert board.ranking() == before


def test_a_refusal_shows_no_progress(open_one: OpenBoard, command: Command) -> None:
    """What has not begun has no bar: the reason is all there is to read."""
    board = played(open_one)
    refusals = [
        (command(board, "rebuild"), "--force"),
        (command(board, "archive"), "still takes submissions"),
        (command(board, "rebalance", "--cuts", "10,5"), "cuts increase, and 5 stands behind 10"),
        (command(board, "rebalance", "--cuts", "10,10"), "cuts increase, and 10 stands behind 10"),
    ]
    for told, why in refusals:
        assert (told.exit_code, why in " ".join(told.output.split())) == (1, True), told.output
        assert "0/" not in told.output
    assert board.now().version == 1


def test_who_verifies_a_board_with_a_player_in_two_shards_is_sent_to_the_scrub(
    open_one: OpenBoard, command: Command
) -> None:
    board = played(open_one)
    ranking = board.ranking()
    player = ranking[0][0]  # the best is in shard 0
    board.on_shard(3, "ZADD", "@rows", -5 * 2**22, player)
    told = command(board, "verify")
    assert (told.exit_code, "rangeboard scrub" in told.output) == (1, True), told.output
    scrubbed = command(board, "scrub", "--json")
    assert scrubbed.exit_code == 0, scrubbed.output
    told = command(board, "verify")
    assert (told.exit_code, "No difference" in told.output) == (0, True), told.output
    assert board.ranking() == ranking


@pytest.mark.parametrize("verb", ["verify", "scrub"])
def test_progress_has_a_total(open_one: OpenBoard, command: Command, verb: str) -> None:
    """The rows of the board, hidden players among them."""
    board = played(open_one)
    told = command(board, verb)
    assert told.exit_code == 0, told.output
    assert "300/300" in told.output
    assert "/?" not in told.output


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"PONG", "ok"),
        (TimeoutError("Timeout reading from socket"), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "no connection"),
    ],
)
def test_what_a_node_did_not_say_is_told_in_our_words(reply: object, said: str) -> None:
    assert _said(reply) == said
