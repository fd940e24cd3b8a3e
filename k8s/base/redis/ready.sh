#!/bin/sh
# Ready: as far as this node knows the cluster serves, and what its primary has, it has too. A rolling update waits for
# this before it takes the next node. Arguments go to redis-cli.
set -eu

redis-cli "$@" cluster info | grep -q cluster_state:ok
redis-cli "$@" info replication | grep -q -e role:master -e master_link_status:up
