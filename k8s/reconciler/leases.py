"""One reconciler acts, the others stand by: a Lease of `coordination.k8s.io`, taken by compare and swap.

The guarantee: as long as no machine's clock *runs* wrong, two reconcilers never both believe to hold it, whatever the
clocks show and however long a process was stopped in between. The holder counts its time from before it asked for the
renewal, the others from after they saw it, and nobody compares two machines' clocks. Everything that is done under
the lease is idempotent besides, so a lease held twice would cost noise, never rows.

The elector that comes with the Kubernetes client was rejected: it acts in one thread and renews in another, so that a
holder which lost the lease goes on acting; and it waits for the API without a deadline.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kubernetes.client import ApiException, CoordinationV1Api, V1Lease, V1LeaseSpec, V1ObjectMeta

from k8s.reconciler.pods import REQUEST_TIMEOUT_S

_NOT_FOUND, _CONFLICT = 404, 409


@dataclass(frozen=True, slots=True)
class _Record:
    """What the lease said when it was read."""

    version: str | None = None  # None: there is no lease yet
    holder: str = ""
    duration_s: int = 0
    acquired_at: datetime | None = None
    transitions: int = 0


class Lease:
    """One candidate's view of the lease."""

    def __init__(
        self,
        api: CoordinationV1Api,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_s: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` must differ between candidates; without renewal the lease is free after `duration_s` seconds."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration_s = duration_s
        self._clock = clock
        self._held_until = clock()
        self._seen: str | None = None  # the version of another holder's lease, and since when it stands
        self._seen_at = clock()

    @property
    def held(self) -> bool:
        """Whether this candidate may act now."""
        return self._clock() < self._held_until

    def hold(self) -> bool:
        """Take the lease if it is free, renew it if it is held; whether this candidate may act now.

        Raises as the API client does; what was held until then is held until its time is over.
        """
        asked_at = self._clock()
        if self._held_until - asked_at > self._duration_s * 2 / 3:
            return True
        record = self._read()
        taken = self._free(record) and self._write(record, self._identity)
        self._held_until = asked_at + self._duration_s if taken else asked_at
        return self.held

    def release(self) -> None:
        """Give the lease back, if it is held, so that nobody has to wait for its end. Raises as the API client does."""
        if self.held:
            self._held_until = self._clock()
            record = self._read()
            if record.holder == self._identity:
                self._write(record, "")

    def _free(self, record: _Record) -> bool:
        if record.holder in {"", self._identity}:
            return True
        if record.version != self._seen:
            self._seen, self._seen_at = record.version, self._clock()
        return self._clock() - self._seen_at > record.duration_s

    def _read(self) -> _Record:
        try:
            lease = self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=REQUEST_TIMEOUT_S)
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return _Record()
            raise
        metadata, spec = lease.metadata or V1ObjectMeta(), lease.spec or V1LeaseSpec()
        return _Record(
            version=metadata.resource_version,
            holder=spec.holder_identity or "",
            duration_s=spec.lease_duration_seconds or self._duration_s,
            acquired_at=spec.acquire_time,
            transitions=spec.lease_transitions or 0,
        )

    def _write(self, read: _Record, holder: str) -> bool:
        """Write who holds the lease; False if somebody else wrote since it was read."""
        now = datetime.now(UTC)
        changes = holder != read.holder
        spec = V1LeaseSpec(
            holder_identity=holder or None,
            lease_duration_seconds=self._duration_s,
            acquire_time=now if changes else read.acquired_at,
            renew_time=now,
            lease_transitions=read.transitions + changes,
        )
        # The version that was read goes along: the API refuses to replace a later one.
        lease = V1Lease(metadata=V1ObjectMeta(name=self._name, resource_version=read.version), spec=spec)
        try:
            if read.version is None:
                self._api.create_namespaced_lease(self._namespace, lease, _request_timeout=REQUEST_TIMEOUT_S)
            else:
                self._api.replace_namespaced_lease(
                    self._name, self._namespace, lease, _request_timeout=REQUEST_TIMEOUT_S
                )
        except ApiException as error:
            if error.status == _CONFLICT:
                return False
            raise
        return True
