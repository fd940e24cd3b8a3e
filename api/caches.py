"""What PostgreSQL says, remembered for a while, so that no request waits for it twice and few wait at all.

A value is *fresh* for `fresh_s`. For as long again it is *aging*: it is handed out, and asked for anew in the
background. Older than that, the caller waits for the new value, but not for long. When PostgreSQL is away the old value
stays good: what was true a minute ago is a better answer than none. So a change, a revoked key say, is noticed within
twice `fresh_s` while PostgreSQL is there, whether or not anybody used the value meanwhile.

Bounded: at `most` values the oldest ones go.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from api.patience import PATIENCE_S, in_background
from records.errors import RecordsError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Remembered(Generic[V]):
    value: V
    fresh_until: float


class Cache(Generic[K, V]):
    """Values by key, from a function that asks PostgreSQL. Safe to use from many threads or greenlets."""

    def __init__(
        self,
        load: Callable[[K], V],
        *,
        fresh_s: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._fresh_s = fresh_s
        self._most = most
        self._clock = clock
        self._remembered: OrderedDict[K, _Remembered[V]] = OrderedDict()
        self._loading: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V:
        """The value. RecordsError if it is not remembered and cannot be loaded."""
        remembered = self._remembered.get(key)
        if remembered is None:
            return self._refresh(key, remembered).result()
        age = self._clock() - remembered.fresh_until
        if age < 0:
            return remembered.value
        coming = self._refresh(key, remembered)
        if age < self._fresh_s:
            return remembered.value
        try:
            return coming.result(PATIENCE_S)
        except TimeoutError:
            return remembered.value

    def _refresh(self, key: K, seen: _Remembered[V] | None) -> "Future[V]":
        """The value after the one that was seen; callers that come meanwhile wait for the same one."""
        with self._lock:
            coming = self._loading.get(key)
            if coming is not None:
                return coming
            remembered = self._remembered.get(key)
            if remembered is not None and remembered is not seen:  # it came a moment ago
                coming = Future()
                coming.set_result(remembered.value)
                return coming
            coming = self._loading[key] = in_background(partial(self._renewed, key))
            return coming

    def _renewed(self, key: K) -> V:
        try:
            value = self._loaded(key)
        except BaseException:
            with self._lock:
                del self._loading[key]
            raise
        with self._lock:
            del self._loading[key]
            self._remembered.pop(key, None)
            while len(self._remembered) >= self._most:
                self._remembered.popitem(last=False)
            self._remembered[key] = _Remembered(value, self._clock() + self._fresh_s)
        return value

    def _loaded(self, key: K) -> V:
        """What PostgreSQL says, or what it said before, if it cannot be asked."""
        try:
            return self._load(key)
        except RecordsError as error:
            old = self._remembered.get(key)
            if old is None or not error.retryable:
                raise
            return old.value
