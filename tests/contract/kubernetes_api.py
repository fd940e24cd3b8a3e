"""A stand-in for the Kubernetes API: pods to list, leases to hold, and the rules of a Role that decide who may.

It is small because of what has to be true of it. A lease is written by compare and swap, so a version that is not the
latest is refused with 409; and what the Role in our manifests does not allow is refused with 403, so that whatever
passes here needs no more than it gives. The stand-ins that can be installed do neither.
"""

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client import ApiClient, Configuration

PATH = re.compile(r"/apis?/(?:(?P<group>[a-z.0-9]+\.[a-z.]+)/)?v1/namespaces/(?P<namespace>[^/]+)/"
                  r"(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?")  # fmt: skip

Rule = dict[str, list[str]]


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What somebody asked for."""

    verb: str
    group: str
    resource: str
    name: str
    selector: str
    body: Any


@dataclass
class KubernetesApi:
    """The API of a cluster with one namespace; without rules everything is allowed."""

    rules: list[Rule] | None = None
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    down: bool = False
    _version: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def client(self) -> ApiClient:
        configuration = Configuration(host=self.url)
        configuration.retries = 0
        return ApiClient(configuration)

    def kubeconfig(self) -> str:
        """The content of a kubeconfig that leads here."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": self.url}}],
                "users": [{"name": "anybody", "user": {}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "anybody"}}],
                "current-context": "here",
            }
        )

    def put_pod(self, name: str, ip: str | None, *, labels: dict[str, str], phase: str = "Running") -> None:
        status = {"phase": phase, **({"podIP": ip} if ip else {})}
        self.pods[name] = {"metadata": {"name": name, "labels": labels}, "status": status}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: Request) -> dict[str, Any]:
        with self._lock:
            self.requests.append(request)
            if self.down:
                raise Refused(503, "the API server is away")
            if self.rules is not None and not any(_allows(rule, request) for rule in self.rules):
                raise Refused(403, f"forbidden: {request.verb} {request.resource} {request.name}")
            match request:
                case Request(verb="list", resource="pods", selector=selector):
                    wanted = dict(label.split("=") for label in selector.split(",") if label)
                    return {"items": [pod for pod in self.pods.values() if _labelled(pod, wanted)]}
                case Request(resource="leases"):
                    return self._lease(request)
            raise Refused(404, "not here")

    def _lease(self, request: Request) -> dict[str, Any]:
        name = request.name or request.body["metadata"]["name"]
        stored = self.leases.get(name)
        if request.verb == "create" and stored:
            raise Refused(409, "exists")
        if request.verb != "create" and not stored:
            raise Refused(404, "not found")
        if request.verb in {"create", "update"}:
            read = request.body["metadata"].get("resourceVersion")
            if stored and read != stored["metadata"]["resourceVersion"]:
                raise Refused(409, "somebody else was faster")
            self._version += 1
            metadata = {**request.body["metadata"], "resourceVersion": str(self._version)}
            stored = self.leases[name] = {**request.body, "metadata": metadata}
        assert stored is not None
        return stored


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve("get")

        def do_POST(self) -> None:
            self._serve("create")

        def do_PUT(self) -> None:
            self._serve("update")

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self, verb: str) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            try:
                status, reply = 200, api.answer(self._request(verb, body))
            except Refused as refusal:
                status, reply = refusal.status, {"kind": "Status", "code": refusal.status, "message": str(refusal)}
            payload = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _request(self, verb: str, body: Any) -> Request:
            url = urlsplit(self.path)
            path = PATH.fullmatch(url.path)
            if path is None:
                raise Refused(404, f"no such path: {url.path}")
            name = path["name"] or ""
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            if verb == "get" and not name:
                verb = "list"
            return Request(verb, path["group"] or "", path["resource"], name, selector, body)

    return Handler


def _allows(rule: Rule, request: Request) -> bool:
    names = rule.get("resourceNames")
    return (
        request.group in rule["apiGroups"]
        and request.resource in rule["resources"]
        and request.verb in rule["verbs"]
        and (names is None or request.name in names)
    )


def _labelled(pod: dict[str, Any], wanted: dict[str, str]) -> bool:
    labels: Iterable[tuple[str, str]] = pod["metadata"]["labels"].items()
    return wanted.items() <= set(labels)
