"""The contract as an OpenAPI document, made of the endpoints and the very types that decode and encode."""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from api import schemas
from api.auth import Scope
from api.endpoints import Endpoint
from api.problems import MEDIA_TYPE, Problem
from api.requests import JSON

_REF = "#/components/schemas/{name}"
_PLACEHOLDER = re.compile(r"<(\w+)>")
_ALWAYS = (400, 500, 503)
#: What the words of a path are, by the names of their placeholders.
_WORDS = {"user_id": schemas.UserId, "board": schemas.BoardName, "job_id": schemas.JobId}


def document(endpoints: Sequence[Endpoint], version: str, *, reads_open: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints. `reads_open`: reads need no key."""
    types = _types(endpoints)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _PLACEHOLDER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(
            endpoint,
            schema_of,
            components,
            scope=None if endpoint.scope is Scope.READ and reads_open else endpoint.scope,
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rangeboard", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key"}},
        },
    }


_DESCRIPTION = (
    "A real-time leaderboard, sharded by score. Errors are problem documents (RFC 9457) whose `outcome` says whether a "
    "write may have happened: after `unknown`, send the same submission again under the same match id."
)


def _types(endpoints: Iterable[Endpoint]) -> list[Any]:
    kinds: list[Any] = [Problem]
    for endpoint in endpoints:
        kinds += [endpoint.gives, endpoint.query]
        if endpoint.takes is not None:
            kinds.append(endpoint.takes)
    return list({id(kind): kind for kind in kinds}.values())


def _operation(
    endpoint: Endpoint, schema_of: dict[int, Any], components: dict[str, Any], *, scope: Scope | None
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.answer.__qualname__.replace("Answers.", "-").lower(),
        "parameters": [
            *_path_parameters(endpoint),
            *_query_parameters(endpoint, components),
            *_header_parameters(endpoint),
        ],
        "responses": _responses(endpoint, schema_of, needs_key=scope is not None),
    }
    if endpoint.takes is not None:
        schema = schema_of[id(endpoint.takes)]
        content = {JSON: {"schema": schema}}
        if endpoint.lines:
            content[endpoint.lines] = {"schema": schema["items"]}
        operation["requestBody"] = {"required": True, "content": content}
    if scope is not None:
        operation["security"] = [{"key": [scope.value]}]
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": msgspec.json.schema(_WORDS.get(name, str))}
        for name in _PLACEHOLDER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components.get(endpoint.query.__name__, {})
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": member}
        for name, member in schema.get("properties", {}).items()
    ]


def _header_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if not endpoint.encodings:
        return []
    encoding = {"type": "string", "enum": list(endpoint.encodings)}
    return [{"name": "Content-Encoding", "in": "header", "required": False, "schema": encoding}]


def _responses(endpoint: Endpoint, schema_of: dict[int, Any], *, needs_key: bool) -> dict[str, Any]:
    refusals = {*_ALWAYS, *endpoint.refuses}
    if needs_key:
        refusals |= {401, 403}
    if endpoint.takes is not None:
        refusals |= {408, 413, 415}
    forms = {status: (MEDIA_TYPE, schema_of[id(Problem)]) for status in refusals}
    given = (endpoint.media_type, schema_of[id(endpoint.gives)])
    forms |= {status.value: given for status in (endpoint.status, *endpoint.also)}
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": {media_type: {"schema": schema}}}
        for status, (media_type, schema) in sorted(forms.items())
    }
