"""`make bench` runs, and does not pass over a wrong result. Its figures are nobody's test."""

import pytest
from bench_process import lines_of

pytestmark = pytest.mark.servers

#: A stack that is loaded as for each figure, in small; then its memory; then a point is lost from one row.
SCRIPT = """
import sys
from argparse import Namespace
from collections import Counter
from contextlib import closing

import redis
from rich.console import Console

from bench import latency, memory
from bench.__main__ import LINES, seeded
from bench.checks import Disagreement, check
from records.engine import connect
from runtime.settings import load
from sharding.leaderboard import Leaderboard

console = Console(stderr=True, quiet=True)
wanted = Namespace(players=3_000, playing=300, seconds=1.0, workers=1)
try:
    with seeded(load(), wanted, console) as bench:
        taken = Counter()  # of all lines: the clock has ticks of 10 ms, and a part may take less of them for one
        for line in LINES:
            if line.what.startswith(("`POST /scores`, 64", "`POST /scores:batch`", "write function")):
                pair = line.measure(bench)
                assert pair.ours > 0 and pair.floor > 0, line.what
                taken.update(pair.cpu_us)
                if line.below is not None:
                    assert "250,000/s take" in line.below(pair.cpu_us)
        assert all(us > 0 for part, us in taken.items() if part != "rest"), taken
        curve = latency.measure(bench, latency.SINGLE, console, shares=(10, 50), requests=300)
        assert [len(row) for row in latency.rows(curve, [10, 50])] == [len(latency.HEADINGS)] * 2
        assert all(seen.latencies and not seen.failed for seen in curve.at.values())
        assert latency.picture(curve).startswith("<svg xmlns=")
        settings = bench.stack.settings
        engine = connect(settings.postgres_dsn)
        with closing(Leaderboard.connect(settings, known_players=lambda _, players: players)) as leaderboard:
            print("agreed", check(leaderboard, engine).rows_in_redis)
        engine.dispose()
        client = redis.RedisCluster.from_url("redis://" + settings.redis_nodes.split(",")[0])
        rows = next(key for key in client.scan_iter("*global:*rows") if client.zcard(key))
        client.zincrby(rows, 2**22, client.zrange(rows, 0, 0)[0])
except Disagreement as error:
    print("noticed", error)
else:
    sys.exit("a lost point was not noticed")

held = memory.measure(load(), 2_000, 500, console)
assert {"rows", "directory", "recent", "outbox"} <= {kind for kind in memory.ENTRIES if held.each(kind)}
assert held.ratio > 1
assert len(memory.rows([held])[0]) == len(memory.headings([held]))
"""


def test_a_small_stack_is_measured_and_checked() -> None:
    agreed, noticed = (line for line in lines_of(SCRIPT) if line.startswith(("agreed", "noticed")))
    assert int(agreed.split()[1]) == 3_000
    assert "1 players differ" in noticed
