"""Player ids: what may be one, who is the same player, and how they are kept and ordered in Redis."""

import hashlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.errors import InvalidValue
from sharding.players import RESERVED, member_hash, member_of, parse_player_id, player_of

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"

plain_ids = st.text(ALPHABET, min_size=1, max_size=64).filter(lambda text: text not in RESERVED)
uuid_texts = st.binary(min_size=16, max_size=16).map(lambda value: str(UUID(bytes=value)))
#: As long as a packed UUID: the ids most easily taken for one.
sixteen_letters = st.text(ALPHABET, min_size=16, max_size=16)
player_ids = st.one_of(plain_ids, uuid_texts, uuid_texts.map(str.upper), sixteen_letters).map(parse_player_id)


@given(plain_ids)
@settings(deadline=None)
def test_every_id_of_the_alphabet_is_one(text: str) -> None:
    assert parse_player_id(text).lower() == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 65,
        "around",
        "lookup",
        "ann lee",
        " ann",
        "ann\n",
        "\nann",
        "ann\x00",
        "ann/bob",
        "{ann}",
        "ann@example.org",
        "ann,bob",
        "\u00e9",
        "\uff41nn",
        "ann\u0661",  # a digit, but not one of ours
        "\ud800",
        "k\u0130",
    ],
)
def test_anything_else_is_refused_and_the_field_named(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        parse_player_id(text)
    assert refused.value.field == "user_id"


@given(player_ids)
@settings(deadline=None)
def test_a_player_survives_the_way_into_redis_and_back(player) -> None:
    assert player_of(member_of(player)) == player
    assert parse_player_id(player) == player, "what is read back is an id, and the same one"


@given(player_ids, player_ids)
@settings(deadline=None)
def test_two_players_are_two_members(one, other) -> None:
    assert (member_of(one) == member_of(other)) == (one == other)


@given(uuid_texts)
@settings(deadline=None)
def test_the_case_of_a_uuid_does_not_matter(text: str) -> None:
    swapped = text.swapcase()
    mixed = "".join(a if index % 2 else b for index, (a, b) in enumerate(zip(text, swapped, strict=True)))
    assert {parse_player_id(text), parse_player_id(swapped), parse_player_id(mixed)} == {text}


def test_the_case_of_any_other_id_does() -> None:
    # as long as a UUID, with its hyphens, and none: g is no hexadecimal digit
    text = "ABCDEFAB-CDEF-ABCD-8BCD-ABCDEFABCDEG"
    assert parse_player_id(text) == text
    assert parse_player_id("Ann") != parse_player_id("ann")


@pytest.mark.parametrize("variant", "89ab")
def test_a_uuid_takes_sixteen_bytes(variant: str) -> None:
    player = parse_player_id(f"01890a5d-ac96-774b-{variant}cce-b302099a8057")
    assert member_of(player) == UUID(player).bytes


@pytest.mark.parametrize("variant", "01234567cdef")
def test_a_uuid_of_another_variant_is_kept_as_text(variant: str) -> None:
    player = parse_player_id(f"01890a5d-ac96-774b-{variant}cce-b302099a8057")
    assert member_of(player) == player.encode()


@given(st.lists(uuid_texts.filter(lambda text: text[19] in "89ab"), unique=True))
@settings(deadline=None)
def test_members_of_uuids_stand_in_the_order_of_their_text(texts: list[str]) -> None:
    players = [parse_player_id(text) for text in texts]
    assert [player_of(member) for member in sorted(map(member_of, players))] == sorted(players)


@given(st.lists(plain_ids.filter(lambda text: len(text) < 36), unique=True))
@settings(deadline=None)
def test_members_of_other_ids_stand_in_the_order_of_their_text(texts: list[str]) -> None:
    players = [parse_player_id(text) for text in texts]
    assert [player_of(member) for member in sorted(map(member_of, players))] == sorted(players)


@given(player_ids)
@settings(deadline=None)
def test_the_hash_is_one_that_a_function_in_redis_can_compute(player) -> None:
    member = member_of(player)
    assert member_hash(member) == int(hashlib.sha1(member).hexdigest()[:8], 16)


@pytest.mark.parametrize("shift", [0, 16])
def test_the_hash_spreads_consecutive_ids_evenly(shift: int) -> None:
    """Directory buckets are cut by the low bits, hash splits by the high ones."""
    players, parts = 20_000, 16
    counts = [0] * parts
    for number in range(players):
        counts[(member_hash(member_of(parse_player_id(f"player-{number}"))) >> shift) % parts] += 1
    assert max(counts) < 1.15 * players / parts
    assert min(counts) > 0.85 * players / parts
