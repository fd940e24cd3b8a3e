"""Players are made once, whoever asks how often, and found in one query."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from psycopg2.extensions import make_dsn
from sqlalchemy import event

from records import players
from records.errors import Conflict, InvalidRecord
from records.players import Creation, NewPlayer

pytestmark = pytest.mark.servers


@pytest.fixture
def tag():
    """What makes the names of a test its own."""
    return uuid4().hex[:12]


@pytest.fixture
def statements(database):
    """The statements sent while the test runs."""
    sent = []

    def note(_connection, _cursor, statement, *_):
        sent.append(statement)

    event.listen(database, "before_cursor_execute", note)
    yield sent
    event.remove(database, "before_cursor_execute", note)


def test_a_player_is_made_and_found(database, tag):
    made = players.create(
        database,
        NewPlayer(id=f"p-{tag}", username=tag, display_name="Ann 🦊", avatar_url="https://a.example/1", country="BE"),
    )
    assert (made.id, made.username, made.display_name, made.country, made.hidden) == (
        *(f"p-{tag}", tag, "Ann 🦊", "BE", False),
    )
    assert made.created_at.tzinfo is not None
    assert players.get(database, made.id) == made
    assert players.get(database, f"q-{tag}") is None


def test_without_an_id_one_is_made(database, tag):
    made = players.create(database, NewPlayer(username=tag))
    assert UUID(made.id).version == 4
    assert made.display_name == tag


@pytest.mark.parametrize("field", ["id", "username"])
def test_what_is_taken_is_named(database, tag, field):
    """By field, and the first player stays as they are."""
    first = players.create(database, NewPlayer(id=f"a-{tag}", username=f"a-{tag}"))
    second = {"id": f"b-{tag}", "username": f"b-{tag}", field: f"a-{tag}"}
    with pytest.raises(Conflict) as refused:
        players.create(database, NewPlayer(**second))
    assert refused.value.field == field
    assert players.get(database, first.id) == first


def test_a_uuid_in_capitals_is_the_same_player(database):
    player_id = str(uuid4())
    players.create(database, NewPlayer(id=player_id.upper(), username=player_id))
    assert players.existing(database, [player_id]) == {player_id}
    with pytest.raises(Conflict):
        players.create(database, NewPlayer(id=player_id, username=f"{player_id}-2"))


def test_a_batch_tells_what_became_of_each(database, tag, statements):
    """One bad item does not spoil the others; the insert is one statement."""
    players.create(database, NewPlayer(id=f"old-{tag}", username=f"old-{tag}"))
    statements.clear()
    batch = [
        NewPlayer(id=f"new-{tag}", username=f"new-{tag}"),
        NewPlayer(id=f"new-{tag}", username=f"new-{tag}"),
        NewPlayer(id=f"old-{tag}", username=f"another-{tag}"),
        NewPlayer(id=f"thief-{tag}", username=f"old-{tag}"),
        NewPlayer(id=f"twin-{tag}", username=f"new-{tag}"),
        NewPlayer(id="not an id", username=f"x-{tag}"),
        NewPlayer(username=f"made-{tag}", country="BE"),
    ]
    results = players.create_many(database, batch)
    statuses = [result.status for result in results]
    assert statuses == ["created", "exists", "exists", "username_taken", "username_taken", "invalid", "created"]
    assert (results[5].field, results[5].id) == ("id", "not an id")
    assert UUID(results[6].id).version == 4
    assert sum("INSERT INTO users" in statement for statement in statements) == 1
    there = players.existing(database, [player.id for player in batch[:5]])
    assert there == {f"new-{tag}", f"old-{tag}"}


def test_a_batch_may_be_repeated_from_everywhere_at_once(database, tag):
    """Each player is created by exactly one of the callers."""
    batch = [NewPlayer(id=f"{tag}-{number}", username=f"{tag}-{number}") for number in range(500)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: players.create_many(database, batch), range(6)))
    for of_one_player in zip(*answers, strict=True):
        assert sorted(result.status for result in of_one_player) == ["created", *["exists"] * 5]


def test_ten_thousand_at_once_are_the_most(database, tag):
    batch = [NewPlayer(id=f"{tag}-{number}", username=f"{tag}-{number}") for number in range(10_000)]
    assert {result.status for result in players.create_many(database, batch)} == {"created"}
    with pytest.raises(InvalidRecord):
        players.create_many(database, [*batch, NewPlayer(username=tag)])
    assert players.create_many(database, []) == []


def test_names_come_in_one_query(database, tag, statements):
    ids = [f"{tag}-{number}" for number in range(100)]
    players.create_many(database, [NewPlayer(id=player_id, username=player_id) for player_id in ids])
    statements.clear()
    found = players.profiles(database, [*ids, "nobody"])
    assert {player_id: player.username for player_id, player in found.items()} == {one: one for one in ids}
    assert players.existing(database, [*ids[:5], "nobody"]) == set(ids[:5])
    assert len(statements) == 2
    assert (players.profiles(database, []), players.existing(database, [])) == ({}, set())


def test_players_are_registered_on_the_fly(database, tag):
    """Under their id; once, whoever meets them first; even where somebody has that id for a name."""
    players.create(database, NewPlayer(id=f"there-{tag}", username=f"there-{tag}"))
    players.create(database, NewPlayer(id=f"thief-{tag}", username=f"new-{tag}"))
    ids = [f"{name}-{tag}" for name in ("there", "new", "other")]
    assert players.register_missing(database, ids) == {f"new-{tag}", f"other-{tag}"}
    assert players.register_missing(database, ids) == set()
    found = players.profiles(database, ids)
    assert found[f"other-{tag}"].username == f"other-{tag}"
    assert found[f"new-{tag}"].username.startswith(f"new-{tag}#")


def test_many_processes_may_register_the_same_players_at_once(database, postgres_dsn, tag):
    """None waits for another that waits for it, though each has its own order of a set; each player is one's."""
    register = """
import sys
from records import engine, players
database = engine.connect(sys.argv[1])
players.existing(database, ["warm"])
print("ready", flush=True)
sys.stdin.readline()
print(len(players.register_missing(database, {f"{sys.argv[2]}-{number}" for number in range(5000)})))
"""
    with database.connect() as connection:
        dsn = make_dsn(postgres_dsn, dbname=connection.connection.driver_connection.info.dbname)
    pods = [
        subprocess.Popen(
            [sys.executable, "-c", register, dsn, tag],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    assert [pod.stdout.readline() for pod in pods] == ["ready\n"] * 3
    for pod in pods:
        pod.stdin.write("go\n")
        pod.stdin.flush()
    answers = [pod.communicate(timeout=60)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0, 0]
    assert sum(map(int, answers)) == 5_000


def test_an_id_that_is_none_registers_nobody(database, tag):
    with pytest.raises(InvalidRecord):
        players.register_missing(database, [f"fine-{tag}", "not fine"])
    assert players.existing(database, [f"fine-{tag}"]) == set()


def test_a_player_changes(database, tag):
    made = players.create(database, NewPlayer(username=tag, country="BE"))
    changed = players.update(database, made.id, {"display_name": "Bob", "country": None, "hidden": True})
    assert (changed.display_name, changed.country, changed.hidden, changed.username) == ("Bob", None, True, tag)
    assert players.update(database, made.id, {}) == changed == players.get(database, made.id)
    assert players.update(database, "nobody", {"hidden": True}) is None
    players.create(database, NewPlayer(username=f"{tag}-2"))
    with pytest.raises(Conflict) as taken:
        players.update(database, made.id, {"username": f"{tag}-2"})
    with pytest.raises(InvalidRecord) as unfit:
        players.update(database, made.id, {"avatar_url": "data:text/html,x"})
    assert (taken.value.field, unfit.value.field) == ("username", "avatar_url")
    assert players.get(database, made.id) == changed


def test_pages_go_through_everybody_once(database, tag):
    names = [f"~{tag}-{number:02d}" for number in range(25)]  # after every other name, in byte order
    players.create_many(database, [NewPlayer(username=name) for name in reversed(names)])
    seen, after = [], f"~{tag}"
    while page := players.page(database, after=after, limit=10):
        seen += [player.username for player in page]
        after = seen[-1]
    assert [name for name in seen if name.startswith(f"~{tag}")] == names


def test_names_are_found_by_how_they_begin(database, tag):
    """The characters that a pattern gives a meaning to stand for themselves."""
    names = [f"{tag}%a", f"{tag}_a", f"{tag}\\a", f"{tag}b", f"{tag}b c"]
    players.create_many(database, [NewPlayer(username=name) for name in names])
    found = {
        prefix: [player.username for player in players.page(database, prefix=f"{tag}{prefix}")] for prefix in "%_\\b"
    }
    assert found == {"%": [names[0]], "_": [names[1]], "\\": [names[2]], "b": names[3:]}
    assert [player.username for player in players.page(database, prefix=f"{tag}b", after=f"{tag}b")] == [f"{tag}b c"]
    assert players.page(database, prefix=f"{tag}B") == []


def test_what_no_text_holds_is_refused_not_an_error(database):
    """Whatever a client sends."""
    for player_id in ("a\0b", "\ud800"):
        with pytest.raises(InvalidRecord):
            players.get(database, player_id)
    assert players.create_many(database, [NewPlayer(id="a\0b", username="x")]) == [
        Creation("invalid", "a\0b", "id", "a player id is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    ]
