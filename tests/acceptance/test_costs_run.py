"""`make costs` runs: a small stack is loaded, and every figure comes out. Its figures are nobody's test."""

import json

import pytest
from bench_process import lines_of

pytestmark = pytest.mark.servers

SCRIPT = """
import json
import msgspec
from bench.costs import seeded
from runtime.settings import load

with seeded(load(), 300) as (here, told):
    single, reads = here.singles(0.5, highest=200), here.reads(0.5)
    board, disk = here.memory(300, told), here.disk()
found = {"single": single.us, "moves": single.moves, "outbox": single.outbox_bytes, "reads": reads.us,
         "board": msgspec.to_builtins(board), "ratio": board.ratio, "disk": disk}
print(json.dumps(found))
"""


def test_a_small_stack_is_measured() -> None:
    found = json.loads(lines_of(SCRIPT)[-1])
    assert found["single"].keys() == {"api", "redis primaries", "worker", "postgres"}
    assert found["single"]["api"] > 0
    assert found["moves"] > 0
    assert found["outbox"] > 0
    assert found["reads"]["api"] > 0
    assert 100 < found["board"]["players"] <= 300
    assert {"rows", "directory", "epochs", "recent", "gone"} <= found["board"]["by_kind"].keys()
    assert found["ratio"] > 1
    assert min(found["board"]["each"].values()) > 0
    assert found["disk"].keys() == {"games", "users", "leaderboard_snapshots"}
    assert min(found["disk"].values()) > 0
