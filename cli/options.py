"""The options that many commands share, and the settings that a command runs under."""

from pathlib import Path

import click
import msgspec

from cli.errors import StackError
from runtime import logs
from runtime.settings import Settings, SettingsError, load

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path(".rangeboard"),
    show_default=True,
    help="The folder that holds everything of one stack.",
)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Everything, for a machine.")


def settings_of_command(process: str) -> Settings:
    """The settings of this command; its own log is for a person, and quiet."""
    try:
        settings = load()
    except SettingsError as error:
        raise StackError(f"{error}.") from error
    logs.configure(msgspec.structs.replace(settings, log_format="console", log_level="warning"), process)
    return settings
