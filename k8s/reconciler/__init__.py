"""The reconciler: forms the Redis Cluster of a namespace, and heals it, for as long as it runs.

Again and again it looks at the pods and at what each Redis node says of the cluster, asks the plan of
`sharding.cluster.formation` (the same that `rangeboard up` follows) what may be done now, takes *one* of those steps,
and looks again. Nothing is remembered between two looks, so it may be killed at any point and run anywhere.

    pods.py     which pods there should be, and where they are
    leases.py   one reconciler acts, the others stand by
    loop.py     look, plan, take one step, look again
    commands.py `reconcile`, and `form` for nodes that no Kubernetes knows of (docker compose)

What belongs here is how Kubernetes names things; how clusters are formed does not.
"""
