"""Whether this process has been told to end. Whatever would go on for ever looks at it now and then."""


class Ending:
    """Set once, from a signal's handler, which must not wait for anything."""

    told = False


ENDING = Ending()
