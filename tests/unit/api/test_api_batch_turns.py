"""A large batch does not keep the other greenlets of its process waiting: they have turns while it is taken apart."""

import subprocess
import sys

import pytest

#: In a process of its own, since gevent changes it for good. Prints how many turns another greenlet has had.
SCRIPT = """
from gevent import monkey

monkey.patch_all()

import gzip, io, json
from datetime import UTC, datetime, timedelta
import gevent
from api.batches import NDJSON, BatchAnswers, read_items
from api.boards import BoardRules
from api.requests import Call
from api.schemas import BatchQuery
from api.scores import Admission
from records.boards import Board
from runtime.deadlines import Deadline
from sharding.submissions import Result, Status

turns = 0

def other():
    global turns
    while True:
        gevent.sleep(0)
        turns += 1

def read(body, **headers):
    environ = {"CONTENT_TYPE": NDJSON, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return read_items(environ | headers, 8_388_608)

class Leaderboard:
    def submit(self, name, submissions, deadline, *, rank):
        return [Result(Status.APPLIED, submission.value) for submission in submissions]

rules = BoardRules(lambda name: Board(name, created_at=datetime.now(UTC)))
items = [json.dumps({"user_id": "ann", "score": number}).encode() for number in range(10_000)]
gevent.spawn(other)
gevent.sleep(0)
"""
DECOMPRESSED = """
body = gzip.compress(items[0] + b" " * 8_000_000)
turns = 0
assert len(read(body, HTTP_CONTENT_ENCODING="gzip")) == 1
"""
APPLIED = """
answers = BatchAnswers(Leaderboard(), lambda: Admission(rules, timedelta()))
call = Call("request", Deadline.after(60), BatchQuery(), read(b"\\n".join(items)))
turns = 0
assert answers.submit(call).applied == 10_000
"""


@pytest.mark.parametrize("work", [DECOMPRESSED, APPLIED], ids=["decompressed", "applied"])
def test_others_have_turns_meanwhile(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{SCRIPT}{work}print(turns)"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
