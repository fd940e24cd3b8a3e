"""What the API counts, for Prometheus, right under several processes.

Each worker process counts into files of its own, in a directory that gunicorn's configuration makes and removes
(`PROMETHEUS_MULTIPROC_DIR`). Whoever answers `/metrics` adds up all files, so any worker may. It is answered on a port
of its own, which gunicorn listens to besides the API's: no second server, and no metrics for players.

Labels are bounded: an endpoint is the pattern of its path, never the path itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from runtime.metrics import everybodys

#: the endpoint of requests that meet none
NO_ENDPOINT = "none"

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_requests = Histogram(
    "rangeboard_http_request_seconds",
    "Time from the request's headers to its answer",
    ["endpoint", "method", "status"],
    buckets=_BUCKETS_S,
)
_submissions = Counter("rangeboard_submissions", "Submissions by what became of them", ["status"])
stream_listeners = Gauge("rangeboard_stream_listeners", "Who listens to the top", multiprocess_mode="livesum")

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_request_series: dict[tuple[str, str, int], Histogram] = {}
_submission_series: dict[str, Counter] = {}


def observe_request(endpoint: str, method: str, status: int, seconds: float) -> None:
    """Count a request that was answered."""
    key = (endpoint, method, status)
    series = _request_series.get(key)
    if series is None:
        series = _request_series[key] = _requests.labels(endpoint, method, status)
    series.observe(seconds)


def count_submission(status: str, how_many: int = 1) -> None:
    """Count submissions by what became of them: applied, duplicate, refused, unknown."""
    series = _submission_series.get(status)
    if series is None:
        series = _submission_series[status] = _submissions.labels(status)
    series.inc(how_many)


def on_own_port(app: Wsgi, port: int) -> Wsgi:
    """An app that answers on this port with the metrics of all processes, and with `app` elsewhere."""
    metrics: Wsgi = make_wsgi_app(everybodys())
    own = str(port)

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return (metrics if environ["SERVER_PORT"] == own else app)(environ, start_response)

    return serve
