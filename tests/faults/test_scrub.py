"""The scrub repairs what two failures at once may leave behind, and nothing else."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from faults.census import census
from faults.damage import Damage
from faults.rig import Rig
from faults.scenarios import running

import sharding.scrub
from cli.scrub import scrub as scrub_command
from records import boards
from records.leases import lease
from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.directory import Entry
from sharding.keys import map_key
from sharding.leaderboard import RankMode, Submission
from sharding.players import PlayerId
from sharding.scrub import START, Position, Repairs, Scrub
from sharding.submissions import Status
from workers import metrics
from workers.scrub import scrub
from workers.verify import verify

pytestmark = pytest.mark.servers


@pytest.fixture
def damage(rig: Rig) -> Damage:
    rig.new_board()
    return Damage(rig)


def scrubbed(damage: Damage) -> dict[str, int]:
    """The repairs of a pass, by kind; afterwards everything is in its place, and a second pass finds nothing to do."""
    rig = damage.rig
    repairs = []
    for _ in range(2):
        looked_at = metrics.scrubbed.labels(rig.shard_map.name.board, "rows")._value
        before = looked_at.get()
        done = scrub(rig.patient, rig.engine, rig.shard_map, Deadline.after(60), players_per_s=1e6, settle_s=0.05)
        assert done is not None
        assert looked_at.get() - before == done.rows
        repairs.append(
            {kind: count for kind, count in asdict(done).items() if count and kind not in {"rows", "entries"}}
        )
    assert repairs[1] == {}
    assert census(rig.leaderboard, rig.shard_map).found == []
    assert verify(rig.patient, rig.engine, rig.shard_map, lambda _: None).agrees
    assert sum(view.rows for view in rig.leaderboard.shards(rig.shard_map.name, Deadline.after(10))) == len(
        census(rig.leaderboard, rig.shard_map).points
    )
    return repairs[0]


def head_points(damage: Damage) -> int:
    return damage.rig.leaderboard.stats(damage.rig.shard_map.name, Deadline.after(10)).points_sum


@pytest.mark.parametrize("entry", [None, Entry(2, 1)], ids=["missing", "older"])
def test_an_entry_that_is_missing_or_older_is_pointed_to_the_row(damage: Damage, entry: Entry | None) -> None:
    where = damage.play("ann", 5, 300)
    damage.set_entry("ann", entry)
    assert scrubbed(damage) == {"pointed": 1}
    assert damage.entry("ann") == where


def test_a_row_that_is_a_new_one_by_the_second_look_is_left_to_its_move(
    damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who left and came back between the looks has just arrived: the directory is about to hear of it."""
    where = damage.play("ann", 5, 300)
    packed = damage.packed("ann", where.shard)
    assert packed is not None
    damage.set_entry("ann", None)
    rig, anew = damage.rig, Entry(where.shard, where.epoch + 2)
    worker = Scrub(rig.patient.functions, rig.patient.directory, lambda *_: (0, {}), settle_s=0.05)

    def whole_pass() -> Repairs:
        done = Repairs()
        assert worker.run(rig.shard_map, Deadline.after(30), players_per_s=1e9, repairs=done) is None
        return done

    with monkeypatch.context() as patch:
        come_back = SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda _: damage.set_row("ann", where.shard, packed, anew.epoch)
        )
        patch.setattr(sharding.scrub, "time", come_back)
        assert whole_pass().total == 0
    assert damage.entry("ann") is None
    assert whole_pass().pointed == 1
    assert damage.entry("ann") == anew


def test_an_older_row_elsewhere_is_a_ghost(damage: Damage) -> None:
    where = damage.play("ann", 5, 300)
    assert where.epoch == 2
    source = 0 if where.shard else 1
    packed = damage.packed("ann", where.shard)
    assert packed is not None
    damage.set_row("ann", source, packed, 1)
    keys = damage.rig.shard_map.keys(source)
    damage.command(keys.slot, "HINCRBY", keys.head, "points", 305)
    assert scrubbed(damage) == {"buried": 1}
    assert damage.entry("ann") == where
    assert head_points(damage) == 305


def test_of_two_rows_under_one_epoch_the_directory_decides(damage: Damage) -> None:
    where = damage.play("ann", 5, 300)
    packed = damage.packed("ann", where.shard)
    assert packed is not None
    damage.set_row("ann", where.shard + 1, packed, where.epoch)
    assert scrubbed(damage) == {"buried": 1}
    assert damage.entry("ann") == where


def test_who_meets_a_buried_row_is_sent_to_the_right_one(damage: Damage) -> None:
    """A process that remembers the ghost's shard finds a tombstone there."""
    where = damage.play("ann", 5, 300)
    packed = damage.packed("ann", where.shard)
    assert packed is not None
    damage.set_row("ann", where.shard + 1, packed, 1)
    assert scrubbed(damage) == {"buried": 1}
    rig = damage.rig
    other = rig.connect(rig.settings)
    try:
        other.directory.learn(rig.shard_map, {b"ann": Entry(where.shard + 1, 1)})  # type: ignore[dict-item]
        late = Submission(PlayerId("ann"), 1, "late")
        result = other.submit(rig.shard_map.name, [late], Deadline.after(10), rank=RankMode.NONE)[0]
        assert (result.status, result.points) == (Status.APPLIED, 306)
    finally:
        other.close()


@pytest.mark.parametrize("values", [(5,), (5, 300), (5, 300, -290)], ids=["never moved", "moved", "came back"])
def test_a_row_that_is_nowhere_comes_back_from_the_audit_log(damage: Damage, values: tuple[int, ...]) -> None:
    """With its points and the time they were reached; and a retry of what had counted still does not count again."""
    damage.play("bob", 7)
    where = damage.play("ann", *values)
    packed = damage.packed("ann", where.shard)
    verify(damage.rig.leaderboard, damage.rig.engine, damage.rig.shard_map, lambda _: None)  # drains
    damage.lose_row("ann", where.shard)
    assert scrubbed(damage) == {"restored": 1}
    assert damage.entry("ann") == where
    assert damage.packed("ann", where.shard) == packed
    rig = damage.rig
    retries = [Submission(PlayerId("ann"), value, f"ann-{number}") for number, value in enumerate(values)]
    results = rig.leaderboard.submit(rig.shard_map.name, retries, Deadline.after(10), rank=RankMode.NONE)
    assert {result.status for result in results} == {Status.DUPLICATE}
    assert damage.packed("ann", where.shard) == packed


def test_an_old_row_in_the_right_shard_is_replaced(damage: Damage) -> None:
    """A player came back to a shard, and the shard has lost all but the first stay."""
    where = damage.play("ann", 5, 300, -290)
    assert where.epoch == 3
    packed = damage.packed("ann", where.shard)
    damage.lose_row("ann", where.shard)
    damage.set_row("ann", where.shard, 5 * -(1 << 22), 1)
    assert scrubbed(damage) == {"restored": 1}
    assert damage.packed("ann", where.shard) == packed


def test_an_entry_that_names_no_shard_is_brought_home(damage: Damage) -> None:
    where = damage.play("ann", 5, 300)
    packed = damage.packed("ann", where.shard)
    verify(damage.rig.leaderboard, damage.rig.engine, damage.rig.shard_map, lambda _: None)  # drains
    damage.lose_row("ann", where.shard)
    damage.set_entry("ann", Entry(4_000, 7))
    assert scrubbed(damage) == {"restored": 1}
    assert damage.entry("ann") == Entry(where.shard, 8)
    assert damage.packed("ann", where.shard) == packed


def test_a_shard_that_does_not_answer_is_passed_over(damage: Damage) -> None:
    """The others are scrubbed, and it is said that something was not. Nobody is restored who may be in that shard."""
    rig = damage.rig
    near, far = damage.play("ann", 5), damage.play("bob", 5, 300)
    damage.set_entry("ann", None)
    damage.set_entry("bob", Entry(far.shard, far.epoch + 1))
    verify(rig.leaderboard, rig.engine, rig.shard_map, lambda _: None)  # drains
    keys = rig.shard_map.keys(far.shard)
    head = damage.command(keys.slot, "DUMP", keys.head)
    damage.command(keys.slot, "UNLINK", keys.head)
    done = scrub(rig.leaderboard, rig.engine, rig.shard_map, Deadline.after(60), players_per_s=1e6, settle_s=0.05)
    assert done is not None
    assert (done.pointed, done.total) == (1, 1)
    assert done.passed_over > 0
    assert damage.entry("ann") == near
    damage.command(keys.slot, "RESTORE", keys.head, 0, head)
    assert scrubbed(damage) == {"restored": 1}


def test_a_claim_without_a_row_is_no_damage(damage: Damage) -> None:
    """Its writer died before the first row."""
    damage.play("bob", 7)
    damage.set_entry("ann", Entry(3, 1))
    assert scrubbed(damage) == {}


def test_a_busy_board_needs_no_repair(rig: Rig) -> None:
    """Moves in flight look like damage for a moment."""
    with running(rig, "busy") as children:
        while rig.leaderboard.stats(rig.shard_map.name, Deadline.after(10)).total < 20:
            children.run_for(0.2)
        # longer than the sweep's interval: so long may a move lie that one late replica has held up
        done = scrub(rig.patient, rig.engine, rig.shard_map, Deadline.after(60), players_per_s=1e6, settle_s=3.0)
        children.run_for(0)
    assert done is not None
    assert done.rows > 10
    assert (done.total, done.missing) == (0, 0), asdict(done)


def test_a_pass_goes_on_where_it_stopped(damage: Damage) -> None:
    """Batch by batch, as ticks of a worker would; all of them together are one pass."""
    players = [f"player-{number}" for number in range(30)]
    for number, player in enumerate(players):
        damage.play(player, number * 30 - 400)
    damage.set_entry("player-3", None)
    rig, done = damage.rig, Repairs()
    worker = Scrub(rig.leaderboard.functions, rig.leaderboard.directory, lambda *_: (0, {}), settle_s=0.05)
    position: Position | None = START
    steps = 0
    while position is not None:
        reached = Position.parse(str(position))
        position = worker.run(rig.shard_map, Deadline.after(0.001), players_per_s=1e6, start=reached, repairs=done)
        steps += 1
    assert steps > 1
    assert (done.rows, done.entries, done.pointed, done.total) == (30, 30, 1, 1)


def test_the_command_tells_what_it_repaired(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    damage.play("ann", 5, 300)
    damage.set_entry("ann", None)
    for name, value in damage.rig.settings.environment().items():
        monkeypatch.setenv(name, value)
    words = ["--board", damage.rig.shard_map.board.name]
    told = json.loads(CliRunner().invoke(scrub_command, [*words, "--json"], catch_exceptions=False).stdout)
    expected = {
        "rows": 1,
        "entries": 1,
        "pointed": 1,
        "buried": 0,
        "restored": 0,
        "missing": 0,
        "passed_over": 0,
        "repairs": 1,
    }
    assert told == expected
    assert "Nothing to repair: 1 rows and 1 directory entries." in CliRunner().invoke(scrub_command, words).stdout


def test_the_task_takes_all_open_boards_and_leaves_word_where_it_stopped(damage: Damage) -> None:
    """In a process of its own, as the worker has it. A run has a share of time for each board: a few may be needed."""
    damage.play("ann", 5, 300)
    name = damage.rig.shard_map.name
    for other in boards.list_all(damage.rig.engine):  # boards that other tests left damaged would take their share
        if other.name != name.board:
            slot, key = map_key(BoardPeriod(other.name, name.period))
            damage.command(slot, "DEL", key)
    slot, key = map_key(name)
    damage.command(slot, "HSET", key, "scrub", "entries:3:0")
    code = "from workers.tasks.scrub import scrub_all; scrub_all()"
    environment = {**os.environ, **damage.rig.settings.environment()}
    runs = 0
    while damage.command(slot, "HGET", key, "scrub") != b"rows:0:0":  # the pass is over, and the next one begins
        assert runs < 5, "every run goes on where the last one stopped"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)
        runs += 1


def test_one_scrubs_at_a_time(damage: Damage) -> None:
    shard_map = damage.rig.shard_map
    with lease(damage.rig.engine, f"scrub:{shard_map.name}:{shard_map.generation}"):
        assert scrub(damage.rig.leaderboard, damage.rig.engine, shard_map, Deadline.after(5), players_per_s=1e6) is None
