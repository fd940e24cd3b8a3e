"""A load test that keeps books: what was sent, what was answered, and whether both agree with what counts at the end.

It knows the service only as its users do: over HTTP, plus a read of PostgreSQL's `games` for the checker. Pure:
`workload`, `scenario`, `histogram`, `measurements`, `answers`, `checker`, `verdict`, `plots`, `report`. At
the edge: `ledger` (files), `service` (HTTP), `games` (SQL), `processes`, `locustfile`, and `run`, which puts them
together. Never here: imports from the other folders; what is tested must not help to test itself.
"""
