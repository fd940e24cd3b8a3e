"""One whole stack for the session, started and stopped by the command as a person would."""

import json
import signal
from collections.abc import Iterator

import pytest
from running_stack import RunningStack, rangeboard

from cli.ports import free_ports

# A test run that was started in the background ignores Ctrl-C, and so would everything that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def ports_of_their_own() -> Iterator[None]:
    """Stacks take the usual ports for metrics where they are free, and so would any other stack on this machine."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("RANGEBOARD_METRICS_PORT", "RANGEBOARD_WORKER_METRICS_PORT"):
            environment.setenv(name, "0")
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    data_dir = tmp_path_factory.mktemp("stack") / "data"
    port = str(free_ports(1)[0])
    with pytest.MonkeyPatch.context() as environment:
        # What is tested here is not how fast a machine is that runs browsers and other people's tests meanwhile.
        environment.setenv("RANGEBOARD_REQUEST_DEADLINE_MS", "10000")
        environment.setenv("RANGEBOARD_ACK_TIMEOUT_MS", "5000")
        up = rangeboard("up", "--detach", "--port", port, data_dir=data_dir, timeout_s=120)
    assert up.returncode == 0, up.stdout + up.stderr
    try:
        status = rangeboard("status", "--json", data_dir=data_dir, timeout_s=30)
        yield RunningStack(data_dir, json.loads(status.stdout))
    finally:
        down = rangeboard("down", "--remove-data", data_dir=data_dir, timeout_s=120)
        assert down.returncode == 0, down.stdout + down.stderr
