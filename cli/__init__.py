"""The command `rangeboard`: the embedded stack, and the operator's verbs. No logic of its own lives here.

The stack, in reading order: `main` (the commands), `preparation` (what can be wrong before a start), `stack` (the
stages of a start, stopping, status), `programs` and `postgres` (how each server is started), `supervisor`,
`leftovers`, `state`, `ports`. What a person sees: `following`, `log_lines`, `presentation`. `servers` starts the
servers alone, for the tests.
"""
