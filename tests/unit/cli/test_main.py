"""`rangeboard`: every command is found, and nobody waits for what another command needs."""

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from cli.main import ELSEWHERE, main


def test_all_commands_are_listed_and_found():
    """Those that modules define, but for those of a group, which are the group's."""
    defined = {}
    for module in set(ELSEWHERE.values()):
        commands = {
            name: value for name, value in vars(import_module(module)).items() if isinstance(value, click.Command)
        }
        within = {
            id(command)
            for group in commands.values()
            if isinstance(group, click.Group)
            for command in group.commands.values()
        }
        defined |= {name: module for name, command in commands.items() if id(command) not in within}
    assert defined == ELSEWHERE
    listed = CliRunner().invoke(main, ["--help"]).output
    for name in [*ELSEWHERE, "up", "down", "status"]:
        assert f"\n  {name} " in listed
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_an_unknown_command_is_refused():
    done = CliRunner().invoke(main, ["rebuilt"])
    assert done.exit_code == 2
    assert "No such command 'rebuilt'" in done.output


@pytest.mark.parametrize("command", ["status", "up", "down"])
def test_the_stacks_own_commands_wait_for_no_others(command):
    """The clients of PostgreSQL and of the boards are what takes long to import."""
    heavy = "{'sqlalchemy', 'alembic', 'sharding.leaderboard', 'celery', 'flask'}"
    start = f"""
import sys
from cli.main import main
main(["{command}", "--help"], standalone_mode=False)
print(sorted({heavy} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
