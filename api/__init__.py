"""What is served over HTTP: the contract's addresses, forms and refusals.

`app` is the factory; `endpoints` says what every address takes and gives, and runs it; `scores`, `batches`, `rankings`,
`users`, `boards`, `stats`, `health` hold one function an address, which take decoded values and return values. Around
them: `schemas` (the forms), `problems` (the refusals), `auth`, `periods`, `caches`, `names`, `metrics`, `openapi`, and
the server itself in `server` and `gunicorn_conf`. Never here: Redis commands, SQL, ranking rules, and the workers.
"""
