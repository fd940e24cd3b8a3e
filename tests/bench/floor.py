"""The floor: a Flask route on the same server that parses and answers the same JSON, and does nothing else."""

import json

from flask import Flask, Response, request

app = Flask("floor")


@app.post("/api/v1/scores")
def submit() -> Response:
    body = json.loads(request.get_data())
    answer = {
        "board": "global",
        "month": "2026-11",
        "user_id": body["user_id"],
        "score": body["score"],
        "rank": 1,
        "rank_is": "recent",
        "applied": True,
        "durable": True,
        "match_id": body["match_id"],
    }
    return app.response_class(json.dumps(answer), mimetype="application/json")


@app.get("/api/v1/scores/<user_id>")
def standing(user_id: str) -> Response:
    answer = {
        "board": "global",
        "month": "2026-11",
        "user_id": user_id,
        "display_name": "Somebody",
        "score": 100,
        "rank": 1,
        "percentile": 99.9,
        "total_players": 1000,
    }
    return app.response_class(json.dumps(answer), mimetype="application/json")


_ENTRY = {"rank": 1, "user_id": "u" * 36, "username": "player-1", "display_name": "P 1", "avatar_url": None, "score": 1}


@app.get("/api/v1/scores")
def top() -> Response:
    answer = {"board": "global", "month": "2026-11", "total_players": 1000, "as_of": "now", "entries": [_ENTRY] * 10}
    return app.response_class(json.dumps(answer), mimetype="application/json")
