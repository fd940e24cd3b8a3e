"""What runs behind the API: Celery tasks that persist the audit, open periods and bring strays home.

A task is a thin, idempotent wake-up around a plain function; losing a message costs latency, never data. What needs
both `sharding` and `records` is composed here.
"""
