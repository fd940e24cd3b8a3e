"""What the reconciler counts, for Prometheus."""

from prometheus_client import Counter, Gauge

leading = Gauge("rangeboard_reconciler_leading", "1 where this reconciler holds the lease")
formed = Gauge("rangeboard_reconciler_formed", "1 where it holds the lease and finds that the cluster lacks nothing")
nodes = Gauge("rangeboard_reconciler_nodes", "Redis nodes by whether they answered the last look", ["state"])
actions = Counter("rangeboard_reconciler_actions", "Actions by kind and by what became of them", ["action", "outcome"])
failures = Counter("rangeboard_reconciler_failures", "Looks that failed, by error", ["error"])


def know_nothing() -> None:
    """Who does not hold the lease does not look, and must not go on telling what it saw before."""
    formed.set(False)
    nodes.clear()
