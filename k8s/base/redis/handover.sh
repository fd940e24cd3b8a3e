#!/bin/sh
# Before a node is stopped on purpose (preStop): a primary lets one of its replicas take over, which loses no write and
# costs clients milliseconds, where a failover after its end costs them seconds. A replica, or a primary that has
# none, just goes. Arguments go to redis-cli, such as -p 6379.
set -eu

# Lines of CLUSTER NODES: id, ip:port@bus,hostname, flags, primary, ping, pong, epoch, link state, slots.
replica=$(redis-cli "$@" cluster nodes | awk '
  { line[NR] = $0 }
  $3 ~ /myself/ && $3 ~ /master/ { primary = $1 }
  END {
    for (n = 1; n <= NR; n++) {
      split(line[n], field, " ")
      if (primary != "" && field[4] == primary && field[8] == "connected" && field[3] !~ /fail|noaddr|handshake/) {
        sub(/@.*/, "", field[2])
        print field[2]
        exit
      }
    }
  }')
[ -n "$replica" ] || exit 0

redis-cli -h "${replica%:*}" -p "${replica##*:}" cluster failover

waited=0
until redis-cli "$@" info replication | grep -q role:slave; do
  [ "$waited" -lt 50 ] || exit 1
  waited=$((waited + 1))
  sleep 0.2
done
