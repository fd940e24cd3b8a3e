"""Just enough of kustomize to render `k8s/overlays` where no kubectl is installed: what our files use, and no more.

A field that it does not know is an error, so that the overlays stay as plain as this. Where a kubectl is installed a
test compares the two renderings.
"""

from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions"),
    *("images", "patches"),
}


def render(folder: Path) -> list[Object]:
    """The objects of the kustomization in a folder."""
    wanted = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert wanted.keys() <= KNOWN, f"{folder} uses {wanted.keys() - KNOWN}"
    assert wanted.get("generatorOptions", {}) in ({}, {"disableNameSuffixHash": True})
    objects = [found for name in wanted["resources"] for found in _resource(folder / name)]
    objects += [_config_map(folder, generator) for generator in wanted.get("configMapGenerator", [])]
    for patch in wanted.get("patches", []):
        targets = [found for found in objects if _is(found, **patch["target"])]
        assert targets, f"{folder}: no {patch['target']}"
        for target in targets:
            for operation in yaml.safe_load(patch["patch"]):
                _apply(target, **operation)
    for image in wanted.get("images", []):
        for container in _containers(objects):
            if container["image"] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    if namespace := wanted.get("namespace"):
        for found in objects:
            _move(found, namespace)
    return objects


def pod_of(found: Object) -> Object | None:
    """The pod specification in an object that makes pods."""
    spec: Object = found.get("spec", {})
    pod: Object | None = spec.get("template", {}).get("spec")
    return pod


def _resource(path: Path) -> list[Object]:
    return render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _config_map(folder: Path, generator: Object) -> Object:
    data = {Path(name).name: (folder / name).read_text() for name in generator["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _is(found: Object, *, kind: str, name: str) -> bool:
    return bool(found["kind"] == kind and found["metadata"]["name"] == name)


def _apply(target: Any, *, op: str, path: str, value: Any) -> None:
    """A JSON patch's `replace`: like there, what it replaces has to be there."""
    assert op == "replace", op
    *way, last = (int(step) if step.isdecimal() else step.replace("~1", "/") for step in path.split("/")[1:])
    for step in way:
        target = target[step]
    target[last]
    target[last] = value


def _containers(objects: list[Object]) -> list[Object]:
    return [container for found in objects if (pod := pod_of(found)) for container in pod["containers"]]


def _move(found: Object, namespace: str) -> None:
    if found["kind"] == "Namespace":
        assert found["metadata"]["name"] == namespace
        return
    found["metadata"]["namespace"] = namespace
    for subject in found.get("subjects", []):
        subject["namespace"] = namespace
