"""Packed scores: points and the time they were reached in one number, so that one comparison ranks two players.

    packed = sign * points * 2^22 + elapsed         sign = -1 where more points rank first, +1 where fewer do

`elapsed` counts the tie-break units since the period began. **The smaller packed score ranks first**, so a sorted set
in its natural order is the ranking: `ZRANK` is the place, `ZRANGE` the page, and members of equal packed score stand
in ascending order of player id. (Packed the other way round, Redis would list those in descending order.)

Exact in a double, which is what Redis keeps, for |points| < 2^30; anything beyond is refused and never rounded.
The Lua functions compute the same numbers (`lua/prelude.lua`); a test holds the two together.
"""

from enum import StrEnum
from typing import NewType

from sharding.errors import OutOfBounds

PackedScore = NewType("PackedScore", int)

ELAPSED_SPAN = 1 << 22
POINTS_LIMIT = 1 << 30
#: As it is told to people: the least and the most points that a player can have, and a submission can bring.
POINTS_SPAN = f"{1 - POINTS_LIMIT:,} to {POINTS_LIMIT - 1:,}"
#: Every packed score lies in LOWEST <= packed < HIGHEST.
LOWEST = PackedScore(-POINTS_LIMIT * ELAPSED_SPAN)
HIGHEST = PackedScore(POINTS_LIMIT * ELAPSED_SPAN)


class Order(StrEnum):
    """Which points rank first."""

    DESC = "desc"
    ASC = "asc"

    @property
    def sign(self) -> int:
        """What points are multiplied by so that the smaller product ranks first."""
        return -1 if self is Order.DESC else 1


def pack(points: int, elapsed: int, order: Order) -> PackedScore:
    """The packed score of `points` reached `elapsed` tie-break units into the period."""
    if not -POINTS_LIMIT < points < POINTS_LIMIT:
        raise OutOfBounds(f"points must stay within {POINTS_SPAN}", field="score")
    return PackedScore(order.sign * points * ELAPSED_SPAN + min(max(elapsed, 0), ELAPSED_SPAN - 1))


def points_of(packed: int, order: Order) -> int:
    """The points in a packed score."""
    return order.sign * (packed >> 22)


def elapsed_of(packed: int) -> int:
    """The tie-break units in a packed score."""
    return packed & (ELAPSED_SPAN - 1)


def best_of_points(points: int, order: Order) -> PackedScore:
    """The smallest packed score that has these points: where they begin in the ranking, and where ranges are cut."""
    return pack(points, 0, order)
