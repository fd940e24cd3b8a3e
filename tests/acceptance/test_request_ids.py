"""The id of a request goes with its submissions: answer, outbox, drain, audit row. Problems and logs name it too."""

from uuid import uuid4

import pytest
from api_calls import BASE, Api, RunningStack, rows
from waiting import wait_until

pytestmark = pytest.mark.servers


@pytest.fixture
def api(stack: RunningStack) -> Api:
    return Api(stack)


def test_a_request_id_reaches_the_audit_row(api: Api, stack: RunningStack) -> None:
    ann, bob, eve = api.players(3)
    given, batch = f"given-{uuid4().hex}", f"batch-{uuid4().hex}"
    single = api.submit(ann, 5, headers={"X-Request-ID": given})
    assert single.headers["X-Request-ID"] == given
    together = [{"user_id": player, "score": 1, "match_id": f"m-{player}"} for player in (ann, bob)]
    answer = api.post(f"{BASE}/scores:batch", together, headers={"X-Request-ID": batch})
    assert (answer.status, answer.headers["X-Request-ID"]) == (200, batch)
    made = api.submit(eve, 2).headers["X-Request-ID"]
    query = "SELECT user_id, request_id FROM games WHERE user_id = ANY(%s)"
    wait_until(lambda: len(rows(stack, query, [ann, bob, eve])) == 4)
    assert sorted(rows(stack, query, [ann, bob, eve])) == sorted(
        [(ann, given), (ann, batch), (bob, batch), (eve, made)]
    )


def test_a_refusal_names_its_request(api: Api) -> None:
    given = f"given-{uuid4().hex}"
    refused = api.submit("nobody at all", -1, headers={"X-Request-ID": given})
    assert refused.status in {400, 422}
    assert refused.json["request_id"] == refused.headers["X-Request-ID"] == given
