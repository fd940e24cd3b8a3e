"""Long jobs on a running stack: asked for over HTTP, done by the workers, looked at until they are done."""

import pytest
from api_calls import BASE, Api, RunningStack
from waiting import wait_until

pytestmark = pytest.mark.servers


def test_a_job_is_done_while_one_waits(stack: RunningStack) -> None:
    api = Api(stack)
    [player] = api.players()
    assert api.submit(player, 5).status == 200
    asked = api.post(f"{BASE}/admin/verify", {})
    assert (asked.status, asked.json["state"]) == (202, "queued")
    job = wait_until(lambda: (found := api.get(asked.headers["Location"]).json)["finished_at"] and found)
    assert (job["state"], job["problem"]) == ("done", None)
    assert job["result"]["players_in_audit"] >= 1
    shards = api.get(f"{BASE}/admin/shards").json
    assert len(shards["shards"]) == 16
    assert shards["total_players"] == sum(shards["players_by_node"].values()) >= 1
