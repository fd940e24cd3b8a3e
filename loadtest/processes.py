"""Where the time goes: CPU seconds of the service's processes, by part, while a load runs.

Only for a stack on this machine, whose process ids somebody gives. A process counts with its children, those that have
ended too, once their parent has waited for them.
"""

from collections.abc import Mapping, Sequence, Set

import psutil

Parts = Mapping[str, Sequence[int]]


def parts_of(status: Mapping[str, object]) -> dict[str, list[int]]:
    """The parts of a stack out of `rangeboard status --json`: primaries and replicas apart, the rest by name."""
    nodes = [node for node in _list(status.get("redis")) if isinstance(node, dict) and node.get("pid")]
    roles = {
        int(node["pid"]): "redis replicas" if node.get("role") == "replica" else "redis primaries" for node in nodes
    }
    parts: dict[str, list[int]] = {}
    pids = status.get("pids")
    for name, pid in pids.items() if isinstance(pids, dict) else ():
        if pid:
            parts.setdefault(roles.get(int(pid), str(name)), []).append(int(pid))
    return parts


def cpu_seconds(parts: Parts) -> dict[str, float]:
    """CPU seconds of each part so far; a process that is gone counts nothing."""
    named = {pid for pids in parts.values() for pid in pids}
    return {part: sum(_of_family(pid, named - {pid}) for pid in pids) for part, pids in parts.items()}


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds between two readings. A part that was restarted in between counts from its restart on."""
    return {part: after[part] - before[part] if after[part] >= before[part] else after[part] for part in after}


def _of_family(pid: int, others: Set[int]) -> float:
    """Of a process and its descendants, but for those that are a part of their own, such as a supervisor's."""
    try:
        process = psutil.Process(pid)
        children = [child.pid for child in process.children() if child.pid not in others]
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    own: float = times.user + times.system + times.children_user + times.children_system
    return own + sum(_of_family(child, others) for child in children)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
