"""Ranks without hidden players, against a list that one counts."""

from hypothesis import given
from hypothesis import strategies as st

from api.shown import Shown


@given(st.integers(0, 40).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(1, max(size, 1))))))
def test_ranks_are_what_one_counts(case: tuple[int, set[int]]) -> None:
    size, marked = case
    hidden = {rank for rank in marked if rank <= size}
    left = [rank for rank in range(1, size + 1) if rank not in hidden]
    shown = Shown(size, hidden)
    assert shown.total == len(left)
    for place, stored_rank in enumerate(left):
        assert shown.rank(stored_rank) == place + 1
        assert shown.stored_place(place) == stored_rank - 1
    for count in range(size + 1):
        assert shown.count(count) == sum(rank <= count for rank in left)
    assert shown.stored_place(len(left)) >= size, "behind the last one is nobody"
