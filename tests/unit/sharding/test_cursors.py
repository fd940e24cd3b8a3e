"""Cursors come back as they were given out, or not at all."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.settings import Settings
from sharding.boards import BoardPeriod
from sharding.cursors import Cursors
from sharding.errors import InvalidValue
from sharding.merge import Placed
from sharding.players import Member
from sharding.scores import HIGHEST, LOWEST, PackedScore

NOVEMBER = BoardPeriod("global", "2026-11")
CURSORS = Cursors(b"a key")

places = st.builds(
    Placed,
    st.integers(LOWEST, HIGHEST - 1).map(PackedScore),
    st.binary(min_size=1, max_size=64).map(Member),
)


@given(places)
@settings(deadline=None)
def test_a_cursor_is_read_as_it_was_written(place: Placed) -> None:
    cursor = CURSORS.write(NOVEMBER, place)
    assert CURSORS.read(NOVEMBER, cursor) == place
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum(), "it needs no escaping in a URL"
    assert 28 <= len(cursor) <= 112


@given(places, st.data())
@settings(deadline=None)
def test_an_altered_cursor_is_refused(place: Placed, data: st.DataObject) -> None:
    """Any character, the bits of the last one that decode to nothing among them."""
    cursor = CURSORS.write(NOVEMBER, place)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from([character for character in "AZaz09-_" if character != cursor[at]]))
    with pytest.raises(InvalidValue) as refused:
        CURSORS.read(NOVEMBER, cursor[:at] + other + cursor[at + 1 :])
    assert refused.value.field == "cursor"


@pytest.mark.parametrize("name", [BoardPeriod("global", "2026-12"), BoardPeriod("other", "2026-11")])
def test_a_cursor_of_another_board_or_period_is_refused(name: BoardPeriod) -> None:
    cursor = CURSORS.write(NOVEMBER, Placed(PackedScore(5), Member(b"ann")))
    with pytest.raises(InvalidValue):
        CURSORS.read(name, cursor)


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "0", "AAAA", "\u00e9", "a b", "=", "A" * 199, "A" * 10_000, base64.b64encode(b"x" * 60).decode()],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidValue):
        CURSORS.read(NOVEMBER, cursor)


def test_a_cursor_with_padding_is_not_the_one_that_was_given_out() -> None:
    cursor = CURSORS.write(NOVEMBER, Placed(PackedScore(5), Member(b"ann")))
    with pytest.raises(InvalidValue):
        CURSORS.read(NOVEMBER, cursor + "=")


def test_processes_of_one_deployment_read_each_others_cursors_and_no_others() -> None:
    place = Placed(PackedScore(5), Member(b"ann"))
    one = Settings(postgres_dsn="postgresql://rangeboard:secret@db/rangeboard")
    cursor = Cursors.of(one).write(NOVEMBER, place)
    assert Cursors.of(one).read(NOVEMBER, cursor) == place
    for other in (Settings(postgres_dsn="postgresql://rangeboard:other@db/rangeboard"), Settings(cursor_secret="k")):
        with pytest.raises(InvalidValue):
            Cursors.of(other).read(NOVEMBER, cursor)
