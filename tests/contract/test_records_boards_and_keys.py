"""Boards, shard maps and API keys: each kept once, whoever writes at the same time."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from records_databases import scalar

from records import api_keys, boards, shard_maps
from records.boards import NewBoard
from records.errors import Conflict, InvalidRecord

pytestmark = pytest.mark.servers

_names = count(1)


@pytest.fixture
def board(database):
    return boards.create(database, NewBoard(f"board-{next(_names)}")).name


def document(version, generation=1, **more):
    return {"version": version, "generation": generation, **more}


def test_a_board_is_made_found_and_listed(database):
    rules = NewBoard("laps", "week", "best", "asc", 0, 2**40, "open", players_may_report=True)
    made = boards.create(database, rules)
    assert boards.get(database, "laps") == made
    assert made in boards.list_all(database)
    assert {field: getattr(made, field) for field in NewBoard.__slots__} == {
        field: getattr(rules, field) for field in NewBoard.__slots__
    }
    assert boards.get(database, "nowhere") is None


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"name": "Global"}, "name"),
        ({"name": "a" * 33}, "name"),
        ({"name": "a:b"}, "name"),
        ({"period_kind": "year"}, "period_kind"),
        ({"operator": "mean"}, "operator"),
        ({"order": "up"}, "order"),
        ({"registration": "closed"}, "registration"),
        ({"min_value": 3, "max_value": 2}, "max_value"),
    ],
)
def test_a_rule_that_is_not_allowed_is_named(database, rules, field):
    with pytest.raises(InvalidRecord) as refused:
        boards.create(database, NewBoard(**{"name": "fine", **rules}))
    assert refused.value.field == field
    assert boards.get(database, "fine") is None


def test_a_board_is_made_once(database, board):
    with pytest.raises(Conflict) as refused:
        boards.create(database, NewBoard(board, "week"))
    assert refused.value.field == "name"
    assert boards.get(database, board).period_kind == "month"


def test_what_is_accepted_may_change(database, board):
    changed = boards.update(database, board, {"min_value": 1, "max_value": None, "registration": "open"})
    assert (changed.min_value, changed.max_value, changed.registration) == (1, None, "open")
    assert boards.update(database, board, {}) == changed == boards.get(database, board)
    assert boards.update(database, "nowhere", {"min_value": 1}) is None
    with pytest.raises(InvalidRecord):
        boards.update(database, board, {"max_value": 0})


def test_the_first_map_of_many_wins_and_all_learn_it(database, board):
    """Every API process may meet a new period first."""
    documents = [document(1, by=number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: shard_maps.insert_first(database, board, "2026-11", one), documents))
    assert answers[0] in documents
    assert all(answer == answers[0] for answer in answers)
    assert shard_maps.latest(database, board, "2026-11").document == answers[0]


def test_who_comes_later_with_a_first_map_learns_the_newest(database, board):
    shard_maps.insert_first(database, board, "2026-11", document(1))
    shard_maps.append(database, board, "2026-11", 1, document(2))
    assert shard_maps.insert_first(database, board, "2026-11", document(1)) == document(2)


def test_a_map_follows_the_newest_or_not_at_all(database, board):
    """Of many who plan from the same version one publishes; the others must look again."""
    shard_maps.insert_first(database, board, "2026-11", document(1))

    def publish(number):
        try:
            return shard_maps.append(database, board, "2026-11", 1, document(2, by=number))
        except Conflict as error:
            return error.field

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(publish, range(8)))
    [stored] = [answer for answer in answers if answer != "version"]
    assert shard_maps.latest(database, board, "2026-11") == stored
    for expected in (1, 3, 7):
        with pytest.raises(Conflict):
            shard_maps.append(database, board, "2026-11", expected, document(expected + 1))
    with pytest.raises(Conflict):
        shard_maps.append(database, board, "2026-12", 1, document(2))
    assert [one.version for one in shard_maps.history(database, board, "2026-11")] == [1, 2]


def test_versions_count_on_through_generations_which_never_go_back(database, board):
    shard_maps.insert_first(database, board, "all", document(1))
    stored = shard_maps.append(database, board, "all", 1, document(2, generation=2))
    assert (stored.version, stored.generation) == (2, 2)
    with pytest.raises(InvalidRecord) as refused:
        shard_maps.append(database, board, "all", 2, document(3, generation=1))
    assert refused.value.field == "generation"


def test_the_newest_maps_of_open_periods_come_together(database, board):
    for period in ("2027-01", "2027-02", "2027-03"):
        shard_maps.insert_first(database, board, period, document(1, period=period))
    shard_maps.append(database, board, "2027-02", 1, document(2, period="2027-02"))
    found = shard_maps.latest_all(database, ["2027-02", "2027-03", "2027-04"])
    assert [(one.board, one.period, one.version) for one in found] == [(board, "2027-02", 2), (board, "2027-03", 1)]
    assert shard_maps.latest_all(database, []) == []
    assert shard_maps.latest(database, board, "2027-04") is None


@pytest.mark.parametrize(
    ("name", "made", "field"),
    [("nowhere", document(1), "board"), (None, document(2), "version"), (None, {"version": 1}, "generation")],
)
def test_a_map_that_does_not_fit_is_refused(database, board, name, made, field):
    with pytest.raises(InvalidRecord) as refused:
        shard_maps.insert_first(database, name or board, "2026-11", made)
    assert refused.value.field == field


def test_a_key_is_found_by_its_secret_only(database):
    key_id, secret = api_keys.create(database, "game server", ["scores:write", "scores:read"])
    found = api_keys.find(database, secret)
    assert (found.id, found.name, found.scopes) == (key_id, "game server", {"scores:write", "scores:read"})
    assert len(secret) >= 25
    for other in (secret[:-1], secret + "A", key_id, "", "rb_", "rb_" + "é" * 22, secret.upper()):
        assert api_keys.find(database, other) is None


def test_no_secret_is_kept(database):
    _, secret = api_keys.create(database, "one", ["admin"])
    kept = scalar(database, "SELECT string_agg(CAST(api_keys AS text), ' ') FROM api_keys")
    assert secret not in kept
    assert secret[3:] not in kept


def test_a_revoked_key_is_no_key(database):
    """For good: making sure of it again neither brings it back nor changes it."""
    key_id, secret = api_keys.create(database, "one", ["admin"])
    assert api_keys.revoke(database, key_id)
    assert api_keys.find(database, secret) is None
    assert not api_keys.revoke(database, key_id)
    assert not api_keys.revoke(database, "nothing")
    again = api_keys.ensure(database, secret, "two", ["scores:read"])
    assert (again.id, again.name, again.scopes) == (key_id, "one", {"admin"})
    assert again.revoked_at is not None
    assert api_keys.find(database, secret) is None
    assert key_id in {key.id for key in api_keys.list_all(database)}


def test_a_given_secret_is_made_sure_of(database):
    """However often, from however many processes; the last name and scopes hold."""
    secret = "rb_" + "s" * 22
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: api_keys.ensure(database, secret, "stack", ["admin"]), range(6)))
    assert len({key.id for key in made}) == 1
    again = api_keys.ensure(database, secret, "stack 2", ["scores:read", "scores:read"])
    assert again == api_keys.find(database, secret)
    assert (again.id, again.name, again.scopes) == (made[0].id, "stack 2", {"scores:read"})


@pytest.mark.parametrize(
    ("secret", "scopes", "field"),
    [("rb_short", ["admin"], "secret"), ("rb_" + "s" * 30, ["root"], "scopes"), ("rb_" + "s" * 30, [], "scopes")],
)
def test_a_key_that_does_not_fit_is_refused(database, secret, scopes, field):
    with pytest.raises(InvalidRecord) as refused:
        api_keys.ensure(database, secret, "x", scopes)
    assert refused.value.field == field
    assert api_keys.find(database, secret) is None
