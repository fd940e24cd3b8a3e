"""Servers of their own for the fault tests, since these kill them."""

from collections.abc import Iterator

import pytest
from faults.rig import Rig, rigged


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Healed servers; every test opens a board of its own."""
    with rigged(tmp_path_factory.mktemp("faults")) as running:
        yield running
