"""`/openapi.json` describes what is served: made of the endpoints themselves, readable without guessing."""

import re
from typing import Any

import pytest
from werkzeug.test import Client

from api.app import create_app
from runtime.settings import Settings

REFERENCE = re.compile(r"#/components/schemas/(.+)")


@pytest.fixture(scope="module")
def client() -> Client:
    """The application without its servers: nothing here needs them."""
    return Client(create_app(Settings()))


@pytest.fixture(scope="module")
def document(client: Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    described: dict[str, Any] = answer.get_json()
    return described


def test_the_contracts_calls_are_there(document: dict[str, Any]) -> None:
    served = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert {
        ("post", "/api/v1/scores"),
        ("get", "/api/v1/scores"),
        ("get", "/api/v1/scores/{user_id}"),
        ("get", "/api/v1/scores/{user_id}/surrounding"),
        ("get", "/api/v1/scores/{user_id}/history"),
        ("get", "/api/v1/stream"),
        ("get", "/api/v1/admin/shards"),
        ("get", "/api/v1/admin/jobs/{job_id}"),
        ("post", "/api/v1/admin/archive"),
        ("post", "/api/v1/admin/rebuild"),
        ("post", "/api/v1/admin/verify"),
        ("post", "/api/v1/admin/rebalance"),
        ("get", "/api/v1/stats"),
        ("get", "/api/v1/boards"),
        ("get", "/api/v1/boards/{board}/periods"),
        ("post", "/api/v1/users"),
        ("get", "/api/v1/users"),
        ("post", "/api/v1/users:batch"),
        ("get", "/api/v1/users/{user_id}"),
        ("get", "/livez"),
        ("get", "/readyz"),
    } <= served


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    named = set(_references(document))
    assert named
    assert named <= set(document["components"]["schemas"])


def test_every_placeholder_is_a_parameter(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            given = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert given == set(re.findall(r"{(\w+)}", path))


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_bounds_and_defaults_are_told(document: dict[str, Any]) -> None:
    parameters = {one["name"]: one for one in document["paths"]["/api/v1/scores"]["get"]["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 10}
    assert not parameters["month"]["required"]
    score = document["components"]["schemas"]["NewScore"]
    assert score["additionalProperties"] is False
    assert set(score["required"]) == {"user_id", "score"}


def test_a_stream_and_a_job_are_told_as_what_they_are(document: dict[str, Any]) -> None:
    stream = document["paths"]["/api/v1/stream"]["get"]["responses"]["200"]["content"]
    assert stream == {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Entries"}}}
    job = document["paths"]["/api/v1/admin/verify"]["post"]
    assert job["security"] == [{"key": ["admin"]}]
    assert {"202", "404", "409", "503"} <= set(job["responses"])


def test_a_write_needs_a_key_and_may_be_refused(document: dict[str, Any]) -> None:
    submit = document["paths"]["/api/v1/scores"]["post"]
    assert submit["security"] == [{"key": ["scores:write"]}]
    assert {"200", "400", "401", "403", "404", "409", "413", "415", "422", "503"} <= set(submit["responses"])
    refusal = submit["responses"]["400"]["content"]
    assert refusal == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_the_forms_of_a_batch_are_told(document: dict[str, Any]) -> None:
    batch = document["paths"]["/api/v1/scores:batch"]["post"]
    line = {"$ref": "#/components/schemas/NewScore"}
    assert batch["requestBody"]["content"] == {
        "application/json": {"schema": {"type": "array", "items": line}},
        "application/x-ndjson": {"schema": line},
    }
    (encoding,) = (one for one in batch["parameters"] if one["in"] == "header")
    assert (encoding["name"], encoding["schema"]["enum"]) == ("Content-Encoding", ["gzip", "zstd"])


def test_reads_need_a_key_where_the_settings_say_so(document: dict[str, Any]) -> None:
    top = document["paths"]["/api/v1/scores"]["get"]
    assert "security" not in top
    assert "401" not in top["responses"]
    closed = Client(create_app(Settings(reads_open=False))).get("/openapi.json").get_json()
    top = closed["paths"]["/api/v1/scores"]["get"]
    assert top["security"] == [{"key": ["scores:read"]}]
    assert {"401", "403"} <= set(top["responses"])


def test_words_of_paths_and_periods_have_their_forms(document: dict[str, Any]) -> None:
    history = document["paths"]["/api/v1/scores/{user_id}/history"]["get"]["parameters"]
    pattern = {one["name"]: str(one["schema"]) for one in history}
    assert "^[A-Za-z0-9._:-]{1,64}$" in pattern["user_id"]
    assert "[0-9]{4}-" in pattern["before"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/scores/", 404),
        ("GET", "/metrics", 404),
        ("DELETE", "/api/v1/scores", 405),
        ("OPTIONS", "/api/v1/scores", 405),
        ("BREW", "/api/v1/scores", 405),
        ("POST", "/livez", 405),
    ],
)
def test_an_address_that_is_not_described_is_refused_with_a_problem(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.open(path, method=method, headers={"X-Request-ID": "r-1"})
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    problem = answer.get_json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["X-Request-ID"] == "r-1"
    assert ("Allow" in answer.headers) == (status == 405)


def test_the_process_lives_without_its_servers(client: Client) -> None:
    assert client.get("/livez").status_code == 200


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [found[1] for one in [value.get("$ref")] if one and (found := REFERENCE.fullmatch(one))]
        return own + [name for one in value.values() for name in _references(one)]
    if isinstance(value, list):
        return [name for one in value for name in _references(one)]
    return []
