"""What PostgreSQL said is remembered: few wait for it, changes are noticed, and nobody fails while it is away."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from waiting import wait_until

from api import caches
from api import names as names_module
from api.auth import Keys, Scope
from api.boards import BoardRules
from api.caches import Cache
from api.names import Names
from api.newcomers import Newcomers
from api.problems import Forbidden, Unauthorized
from records.api_keys import ApiKey
from records.boards import Board as KeptBoard
from records.errors import RecordsUnavailable, WrongSchema
from records.players import Player
from sharding.boards import Board, Operator
from sharding.errors import InvalidValue, Unavailable, UnknownBoard
from sharding.periods import PeriodKind
from sharding.players import PlayerId
from sharding.scores import Order

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Records:
    """PostgreSQL as these modules see it: answers, errors, and how often it was asked."""

    def __init__(self, **values: object) -> None:
        self.values = values
        self.asked: list[object] = []
        self.error: Exception | None = None
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    def get(self, key: str) -> object:
        self.asked.append(key)
        if self.error is not None:
            raise self.error
        return self.values.get(key)

    def profiles(self, ids: Sequence[PlayerId]) -> dict[str, Player]:
        self.asked.append(list(ids))
        if self.error is not None:
            raise self.error
        return {player_id: _player(player_id) for player_id in ids if player_id in self.values}


def _player(player_id: str) -> Player:
    return Player(
        id=player_id,
        username=player_id,
        display_name=player_id.title(),
        avatar_url=None,
        country=None,
        hidden=False,
        created_at=LONG_AGO,
    )


@pytest.fixture
def records() -> Records:
    return Records(a=1)


@pytest.fixture
def cache(records: Records, monkeypatch: pytest.MonkeyPatch) -> Cache[str, object]:
    monkeypatch.setattr(caches, "PATIENCE_S", 10.0)  # or a busy moment of this machine would give the old value
    return Cache(records.get, fresh_s=5, most=3, clock=records.clock)


def test_a_fresh_value_is_not_asked_for_again(records: Records, cache: Cache[str, object]) -> None:
    assert [cache.get("a") for _ in range(3)] == [1, 1, 1]
    assert records.asked == ["a"]


def test_what_is_not_there_is_remembered_too(records: Records, cache: Cache[str, object]) -> None:
    assert [cache.get("b") for _ in range(3)] == [None, None, None]
    assert records.asked == ["b"]


def test_an_aging_value_is_handed_out_and_asked_for_in_the_background(
    records: Records, cache: Cache[str, object]
) -> None:
    cache.get("a")
    records.values["a"] = 2
    records.now += 6
    assert cache.get("a") == 1
    wait_until(lambda: cache.get("a") == 2)
    assert records.asked == ["a", "a"]


def test_a_value_that_nobody_used_for_long_is_asked_for_before_it_is_used(
    records: Records, cache: Cache[str, object]
) -> None:
    """Otherwise a key revoked an hour ago would be good for one more call."""
    cache.get("a")
    records.values["a"] = 2
    records.now += 11
    assert cache.get("a") == 2


@pytest.mark.parametrize("later", [6, 11, 10_000])
def test_while_records_are_away_the_old_value_stays_good(
    records: Records, cache: Cache[str, object], later: int
) -> None:
    cache.get("a")
    records.error = RecordsUnavailable()
    records.now += later
    assert cache.get("a") == 1
    wait_until(lambda: len(records.asked) == 2)
    for _ in range(10):  # and nobody asks again at once
        assert cache.get("a") == 1


def test_what_was_never_known_fails_while_records_are_away(records: Records, cache: Cache[str, object]) -> None:
    records.error = RecordsUnavailable()
    with pytest.raises(RecordsUnavailable):
        cache.get("a")


def test_an_error_that_does_not_pass_is_not_hidden(records: Records, cache: Cache[str, object]) -> None:
    cache.get("a")
    records.error = WrongSchema()
    records.now += 11
    with pytest.raises(WrongSchema):
        cache.get("a")


def test_many_callers_share_one_question() -> None:
    asked: list[str] = []
    answer = threading.Event()

    def slow(key: str) -> str:
        asked.append(key)
        assert answer.wait(5)
        return key.upper()

    cache = Cache(slow, fresh_s=5, most=3)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get("a"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    answer.set()
    for thread in threads:
        thread.join(5)
    assert got == ["A"] * 20
    assert asked == ["a"]


def test_memory_is_bounded_and_the_oldest_go(records: Records, cache: Cache[str, object]) -> None:
    for key in "abcd":
        cache.get(key)
    for key in "bcd":
        cache.get(key)
    assert records.asked == list("abcd")
    cache.get("a")
    assert records.asked == list("abcda")


# -- names


def test_names_cost_one_question_for_all(records: Records) -> None:
    records.values = {"ann": 1, "bob": 1}
    names = Names(records.profiles, clock=records.clock)
    ids = [PlayerId("ann"), PlayerId("bob"), PlayerId("eve")]
    found = names.of(ids)
    assert {name: player.display_name for name, player in found.players.items()} == {"ann": "Ann", "bob": "Bob"}
    assert found.complete
    names.of(ids)
    assert records.asked == [["ann", "bob", "eve"]]


def test_names_that_are_old_are_asked_for_again(records: Records) -> None:
    names = Names(records.profiles, clock=records.clock)
    names.of([PlayerId("a")])
    records.now += 61
    records.values = {"a": 1}
    assert names.of([PlayerId("a")]).players
    assert len(records.asked) == 2


def test_nobody_waits_for_names_that_are_aging(records: Records) -> None:
    """Who shows the top does not wait for PostgreSQL every half minute."""
    records.values = {"ann": 1}
    answer = threading.Event()

    def slow(ids: Sequence[PlayerId]) -> dict[str, Player]:
        assert answer.wait(10)
        return records.profiles(ids)

    answer.set()
    names = Names(slow, clock=records.clock)
    names.of([PlayerId("ann")])
    answer.clear()
    records.now += 31
    for _ in range(3):
        found = names.of([PlayerId("ann")])
        assert found.complete
        assert list(found.players) == ["ann"]
    answer.set()
    wait_until(lambda: len(records.asked) == 2)
    wait_until(lambda: not names._renewing)
    names.of([PlayerId("ann")])
    assert len(records.asked) == 2  # one question for all three, and fresh again


def test_names_that_age_at_the_same_time_are_asked_for_in_one_question(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many players look at their own ranks: one each would cost as much as the ranks."""
    monkeypatch.setattr(names_module, "_GATHERED_FOR_S", 1.0)
    players = [PlayerId(f"p{number}") for number in range(50)]
    records.values = dict.fromkeys(map(str, players), 1)
    names = Names(records.profiles, clock=records.clock)
    names.of(players)
    records.now += 31
    for player in players:
        assert names.of([player]).complete
    wait_until(lambda: not names._renewing)
    assert len(records.asked) == 2
    names.of(players)
    assert len(records.asked) == 2


def test_a_page_without_names_is_better_than_none(records: Records) -> None:
    records.values = {"ann": 1, "bob": 1}
    names = Names(records.profiles, clock=records.clock)
    names.of([PlayerId("ann")])
    records.error = RecordsUnavailable()
    records.now += 1000
    found = names.of([PlayerId("ann"), PlayerId("bob")])
    assert list(found.players) == ["ann"]
    assert not found.complete
    assert names.of([PlayerId("ann")]).complete  # old, but there
    for _ in range(10):
        names.of([PlayerId("bob")])
    assert len(records.asked) == 2  # after a failure nobody asks for a moment
    records.error = None
    records.now += 6
    assert names.of([PlayerId("bob")]).complete


def test_names_are_bounded(records: Records) -> None:
    names = Names(records.profiles, most=10, clock=records.clock)
    for number in range(100):
        names.of([PlayerId(f"p{number}")])
    names.of([PlayerId("p99")])
    assert len(records.asked) == 100
    names.of([PlayerId("p0")])
    assert len(records.asked) == 101


# -- newcomers


def test_newcomers_are_those_who_exist() -> None:
    newcomers = Newcomers(lambda _, ids: {player for player in ids if player != "eve"}, lambda ids: ids)
    assert newcomers.admitted(Board("global"), [PlayerId("ann"), PlayerId("eve")]) == {"ann"}


def test_newcomers_are_refused_at_once_while_nobody_can_tell() -> None:
    """Others' submissions may be in the same call: it must not wait for every newcomer."""
    records = Records()
    records.error = RecordsUnavailable()
    newcomers = Newcomers(
        lambda _, ids: {PlayerId(known) for known in records.profiles(ids)}, lambda ids: (), clock=records.clock
    )
    for _ in range(10):
        with pytest.raises(Unavailable):
            newcomers.admitted(Board("global"), [PlayerId("ann")])
    assert len(records.asked) == 1
    records.error, records.now = None, records.now + 3
    assert not newcomers.admitted(Board("global"), [PlayerId("ann")])


# -- keys


def _key(*scopes: str) -> ApiKey:
    return ApiKey("k1", "test", frozenset(scopes), LONG_AGO, None)


@pytest.fixture
def keys() -> Keys:
    known = {"rb_writer": _key("scores:write"), "rb_reader": _key("scores:read"), "rb_admin": _key("admin")}
    return Keys(known.get)


@pytest.mark.parametrize(
    ("sent", "scope"),
    [
        ("Bearer rb_writer", Scope.WRITE),
        ("bearer rb_reader", Scope.READ),
        ("Bearer rb_admin", Scope.WRITE),
        ("Bearer rb_admin", Scope.READ),
    ],
)
def test_a_key_allows_its_scopes(keys: Keys, sent: str, scope: Scope) -> None:
    keys.check(sent, scope)


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer ", "rb_writer", "Basic rb_writer", "Bearer rb_wrong", "Bearer " + "x" * 10_000]
)
def test_without_a_valid_key_nobody_gets_in(keys: Keys, sent: str | None) -> None:
    with pytest.raises(Unauthorized) as refused:
        keys.check(sent, Scope.WRITE)
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_key_that_lacks_the_scope_is_told_which(keys: Keys) -> None:
    with pytest.raises(Forbidden) as refused:
        keys.check("Bearer rb_reader", Scope.WRITE)
    assert "scores:write" in refused.value.detail
    assert 'scope="scores:write"' in refused.value.headers["WWW-Authenticate"]


# -- boards


def test_rules_are_those_that_are_kept() -> None:
    kept = KeptBoard("cup", "week", "best", "asc", 0, 100, "open", created_at=LONG_AGO)
    assert BoardRules({"cup": kept}.get).get("cup") == Board(
        "cup", PeriodKind.WEEK, Operator.BEST, Order.ASC, lowest=0, highest=100, open_registration=True
    )


def test_a_board_that_is_not_there_is_said_to_be_that() -> None:
    rules = BoardRules(lambda _: None)
    with pytest.raises(UnknownBoard) as refused:
        rules.get("cup")
    assert refused.value.field == "board"


@pytest.mark.parametrize("name", ["", "Cup", "a b", "x" * 33, "cup\n", "-cup", "é"])
def test_a_name_that_no_board_can_have_is_not_looked_up(name: str) -> None:
    asked: list[str] = []
    with pytest.raises(InvalidValue) as refused:
        BoardRules(asked.append).get(name)
    assert refused.value.field == "board"
    assert not asked
