"""The one way a command fails in front of a person."""

from typing import IO, Any

import click


class StackError(click.ClickException):
    """Something the user can act on: the message is one sentence that says what is wrong and what to do."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence in red, where there are colours; click ends the process with exit code 1."""
        click.secho(self.message, fg="red", file=file, err=True)
