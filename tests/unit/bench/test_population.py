"""The players of a benchmark: the same each time, and as many of every part of the board play."""

from bisect import bisect_right
from collections import Counter
from statistics import quantiles

import pytest
from bench.population import Population

POPULATION = Population(size=8_000, playing=800, median_points=210, points_sigma=1.1)


def test_it_is_the_same_each_time_and_has_nobody_twice() -> None:
    everybody = list(POPULATION.everybody())
    assert everybody == list(POPULATION.everybody())
    assert len({one.player for one in everybody}) == 8_000


@pytest.mark.parametrize("playing", [1, 800, 4_999, 8_000])
def test_as_many_play_as_were_asked_for_and_have_the_points_of_the_board(playing: int) -> None:
    population = Population(8_000, playing, 210, 1.1)
    assert len(list(population.who_play())) == playing
    assert set(population.who_play()) <= set(population.everybody())


def test_as_many_of_every_part_of_the_board_play() -> None:
    cuts = quantiles((one.points for one in POPULATION.everybody()), n=8)
    players = Counter(bisect_right(cuts, one.points) for one in POPULATION.who_play())
    assert len(players) == 8
    assert min(players.values()) > 60
    assert max(players.values()) < 140
