"""The one way a command fails in front of a person."""


class StackError(Exception):
    """Something the user can act on: the message is one sentence that says what is wrong and what to do."""
