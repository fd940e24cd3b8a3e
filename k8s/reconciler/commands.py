"""The commands: `reconcile` for ever in Kubernetes, `form` once where there is no Kubernetes.

Both are told the same shape. What a process of this project is told otherwise (logs, ports, the addresses of `form`)
comes from the settings.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration, CoordinationV1Api, CoreV1Api
from prometheus_client import start_http_server
from urllib3.exceptions import HTTPError

from k8s.reconciler.leases import Lease
from k8s.reconciler.loop import Reconciler, touch
from k8s.reconciler.pods import Pods
from runtime import logs
from runtime.settings import Settings, SettingsError, load
from sharding.cluster import executor
from sharding.cluster.formation import FormationError, Library, Shape
from sharding.functions import LIBRARY_NAME, library_code

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_Command = TypeVar("_Command", bound=Callable[..., None])


def _shape_options(command: _Command) -> _Command:
    primaries = click.option(
        "--primaries", type=click.IntRange(1, 1000), default=3, show_default=True, help="Primaries, at least."
    )
    replicas = click.option(
        "--replicas", type=click.IntRange(0, 5), default=1, show_default=True, help="Replicas of each, at least."
    )
    return primaries(replicas(command))


@click.command()
@_shape_options
@click.option("--deadline", type=click.IntRange(1), default=60, show_default=True, help="Seconds until it gives up.")
def form(primaries: int, replicas: int, deadline: int) -> None:
    """Form a Redis Cluster of the nodes in RANGEBOARD_REDIS_NODES, or heal it, and return once it is there."""
    settings = _configured("form")
    shape = _shape(primaries, replicas)
    try:
        executor.form(settings.redis_nodes.split(","), shape, deadline_s=deadline)
    except FormationError as error:
        raise click.ClickException(f"{error}.") from error
    click.echo(f"The cluster is formed: {primaries} primaries with {replicas} replicas each.")


@click.command()
@_shape_options
@click.option("--namespace", help="Namespace of the pods and the lease.  [default: the own one]")
@click.option("--statefulset", default="redis", show_default=True, help="StatefulSet that the pods are named after.")
@click.option(
    "--selector", default="app.kubernetes.io/component=redis", show_default=True, help="Labels that find its pods."
)
@click.option("--port", type=click.IntRange(1, 65535), default=6379, show_default=True, help="Redis port of the pods.")
@click.option("--interval", type=click.FloatRange(0.01), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--lease", "lease_name", default="rangeboard-reconciler", show_default=True, help="Name of the Lease.")
@click.option(
    "--lease-seconds", type=click.IntRange(1), default=15, show_default=True, help="A dead leader's lease ends after."
)
@click.option("--identity", default=lambda: f"{socket.gethostname()}-{os.getpid()}", help="Its name in the Lease.")
@click.option("--heartbeat", type=click.Path(path_type=Path), help="File to touch before each look, for a probe.")
@click.option("--dry-run", is_flag=True, help="Look once, say what would be done, and change nothing.")
def reconcile(
    primaries: int,
    replicas: int,
    namespace: str | None,
    statefulset: str,
    selector: str,
    port: int,
    interval: float,
    lease_name: str,
    lease_seconds: int,
    identity: str,
    heartbeat: Path | None,
    dry_run: bool,
) -> None:
    """Form the Redis Cluster of a StatefulSet's pods, and heal it, until stopped."""
    settings = _configured("reconciler")
    api = _api()
    here = namespace or _own_namespace()
    reconciler = Reconciler(
        Pods(CoreV1Api(api), namespace=here, statefulset=statefulset, selector=selector),
        Lease(CoordinationV1Api(api), namespace=here, name=lease_name, identity=identity, duration_s=lease_seconds),
        _shape(primaries, replicas),
        port=port,
        interval_s=interval,
    )
    if dry_run:
        _say_plan(reconciler)
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server, _ = start_http_server(settings.metrics_port, settings.api_host)
    try:
        reconciler.run(stop, touch(heartbeat))
    finally:
        server.shutdown()


def _say_plan(reconciler: Reconciler) -> None:
    try:
        _, wanted = reconciler.look()
    except (ApiException, HTTPError, FormationError) as error:
        raise click.ClickException(f"{error}.") from error
    for action in wanted.actions:
        click.echo(f"would do: {executor.describe(action)}")
    for lack in wanted.waiting:
        click.echo(f"waits:    {lack}")
    if wanted.done:
        click.echo("The cluster has the wanted shape.")


def _configured(process: str) -> Settings:
    try:
        settings = load()
    except SettingsError as error:
        raise click.ClickException(f"{error}.") from error
    logs.configure(settings, process)
    return settings


def _shape(primaries: int, replicas: int) -> Shape:
    return Shape(primaries, replicas, Library(LIBRARY_NAME, library_code()))


def _own_namespace() -> str:
    return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else "default"


def _api() -> ApiClient:
    """The API of the cluster that this pod runs in, or of the kubeconfig. It retries nothing: the loop looks again."""
    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise click.ClickException(f"There is no Kubernetes to talk to: {error}.") from error
    configuration.retries = 0
    return ApiClient(configuration)
