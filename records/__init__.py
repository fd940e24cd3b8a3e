"""What the studio keeps, in PostgreSQL: players, the audit log, boards, shard maps, keys, and the schema they live in.

Pure: `periods`, `copytext`, and the checks of `players`. At the edge: `engine` (the one place that knows how drivers
fail), `migrations`, `partitions`, `leases`, and one module per table. Functions take an `Engine` and values and return
values; SQLAlchemy rows never leave. Every write may be repeated. Never here: Redis, Flask, Celery, ranking rules.
"""
