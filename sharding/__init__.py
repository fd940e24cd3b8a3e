"""Sharded ranking on a Redis Cluster: everything about a player's place on a board.

Pure: `players`, `periods`, `scores`, `boards`, `slots`, `shard_map`, `keys`, `merge`, `handoff.states`,
`cluster.formation`. At the edge: `cluster.client`, `functions` and the modules built on them. `leaderboard` is the
door. Never here: Flask, Celery, SQL.
"""
