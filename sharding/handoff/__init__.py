"""Moving players between shards, safe at every crash and failover.

`states` is the table of what every call does, with the theory; `mover` takes the steps, for those who wait in
`queue` together; `diagram` draws the table.
"""
