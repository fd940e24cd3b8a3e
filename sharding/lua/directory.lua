--[[ The directory: which shard holds a player, under which epoch. Entries are `shard:epoch` in hashes small enough to
  stay listpacks. A key comes once per player, so keys may repeat; all of one call lie in one slot.

  A partition has a mark, which is made when it is opened and when it is rebuilt. Buckets come and go with their entries, so
  it is only the mark that tells a player without an entry from a partition that is lost. ]]

--[[ rb1_point: an entry takes the higher epoch.
  KEYS  per player: its directory bucket
  ARGV  msgpack of one flat list, per player: member, shard, epoch
  Reply msgpack of another, per player the entry as it is now: shard, epoch. It is always rewritten, so that a WAIT
        covers it whoever wrote it. ]]
local function rb1_point(keys, args)
  local items = unpack_list(args[1])
  if not items or #items ~= 3 * #keys or not are_strings(items, 3)
    or not are_whole(items, 2, 3, MOST_EPOCH) or not are_whole(items, 3, 3, MOST_EPOCH) then
    return redis.error_reply('RBFORM three values a player: member, shard, epoch')
  end
  local entries, made, read = {}, {}, {}
  for i, key in ipairs(keys) do
    local member, shard, epoch = items[3 * i - 2], items[3 * i - 1] + 0, items[3 * i] + 0 -- + 0: there is a -0
    local entry = redis.call('HGET', key, member) or ''
    local its = read[entry] or { string.match(entry, '^(%d+):(%d+)$') }
    read[entry] = its
    if its[2] and its[2] + 0 >= epoch then
      shard, epoch = its[1] + 0, its[2] + 0
    else
      entry = pair_text(made, shard, epoch)
    end
    redis.call('HSET', key, member, entry)
    entries[2 * i - 1], entries[2 * i] = shard, epoch
  end
  return cmsgpack.pack(entries)
end

--[[ rb1_claim: the same for players who are taken to be new. What it enters, a row will rest on: so it is refused where
  entries may have been lost.
  KEYS  the partition's mark, then per player: its directory bucket
  ARGV, Reply  as of rb1_point. RBNODIR if the partition has no mark; nothing is changed then. ]]
local function rb1_claim(keys, args)
  if redis.call('EXISTS', table.remove(keys, 1)) == 0 then
    return redis.error_reply('RBNODIR this partition of the directory was never opened, or is gone')
  end
  return rb1_point(keys, args)
end

redis.register_function('rb1_point', rb1_point)
redis.register_function('rb1_claim', rb1_claim)
