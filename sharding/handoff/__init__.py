"""Moving players between shards, safe at every crash and failover: `mover` takes the steps."""
