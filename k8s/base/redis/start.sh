#!/bin/sh
# Starts a node of the Redis Cluster; arguments go to the server.
#
#   ANNOUNCE_HOSTNAME  the name that clients are given
#   ANNOUNCE_IP        the address that other nodes are given; without it they take the one they see
#   MAXMEMORY          how much the data may take, such as 6gb; without it there is no limit
#   DATA_DIR           where data and nodes.conf are kept; default /data
#
# A primary that crashed is not back at once. Its last writes may be in its replica's memory and not in its own file,
# and a primary that returns before its replica took over would make the replica forget them. So it gives the cluster
# the time to fail over, and comes back as a replica. Its nodes.conf says whether it has one.
set -eu

here=$(dirname "$0")
data=${DATA_DIR:-/data}
failover_s=11 # to notice the dead primary (cluster-node-timeout) and to elect, twice if votes are missing

if [ -e "$data/nodes.conf" ]; then
  primary=$(awk '/myself,master/ { print $1 }' "$data/nodes.conf")
  if [ -n "$primary" ] && grep -q "slave $primary " "$data/nodes.conf"; then
    trap 'exit 0' TERM
    sleep "$failover_s" &
    wait $!
    trap - TERM
  fi
fi

exec redis-server "$here/redis.conf" \
  --dir "$data" \
  --cluster-announce-hostname "$ANNOUNCE_HOSTNAME" \
  ${ANNOUNCE_IP:+--cluster-announce-ip "$ANNOUNCE_IP"} \
  ${MAXMEMORY:+--maxmemory "$MAXMEMORY"} \
  "$@"
