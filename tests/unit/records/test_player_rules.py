"""What a player may be called, before any database is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sharding.players
from records.errors import InvalidRecord
from records.players import RESERVED, NewPlayer, canonical_id, checked_row


@given(st.uuids())
def test_a_uuid_is_kept_in_lower_case(uuid):
    """Written in capitals it is the same player."""
    assert canonical_id(str(uuid).upper()) == canonical_id(str(uuid)) == str(uuid)


def _is_free(text: str) -> bool:
    """Neither a UUID, perhaps, nor a word of the API."""
    return len(text) != 36 and text not in RESERVED


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True).filter(_is_free))
def test_any_other_id_is_kept_as_it_is(player_id):
    assert canonical_id(player_id) == player_id


@pytest.mark.parametrize("player_id", ["", "around", "lookup", "a" * 65, "a b", "a\n", "é", "a/b", "a\0", "{a}"])
def test_other_texts_are_no_id(player_id):
    with pytest.raises(InvalidRecord) as refused:
        canonical_id(player_id)
    assert refused.value.field == "id"


def test_what_is_not_given_is_made():
    """An id at random, and the username for a display name."""
    row = checked_row(NewPlayer(username="ann"))
    assert row["display_name"] == "ann"
    assert canonical_id(row["id"]) == row["id"] != checked_row(NewPlayer(username="ann"))["id"]


@pytest.mark.parametrize("name", ["Ann", "Ann van Dyck", "アンナ", "👩‍👩‍👧", "O'Neil \\ 100%"])
def test_names_are_what_people_write(name):
    assert checked_row(NewPlayer(username=name))["username"] == name


@pytest.mark.parametrize(
    ("field", "value"),
    [("username", text) for text in ("", " ann", "ann ", "a" * 65, "a\nb", "a\0b", "a\x7fb", "\ud800", "a\u2028b")]
    + [("display_name", text) for text in ("", "\t", "a" * 65, "a\x1bb")]
    + [
        ("avatar_url", text)
        for text in ("", "ftp://x/y", "javascript:alert(1)", "https://a b", "https://x/" + "y" * 2048)
    ]
    + [("country", text) for text in ("", "fr", "FRA", "F1", "FR\n")],
)
def test_what_is_not_fit_is_refused_by_field(field, value):
    with pytest.raises(InvalidRecord) as refused:
        checked_row(NewPlayer(**{"username": "ann", field: value}))
    assert refused.value.field == field


def test_the_words_of_the_api_are_the_same_everywhere():
    """Records and ranking do not know each other, so this is kept in two places."""
    assert RESERVED == sharding.players.RESERVED
