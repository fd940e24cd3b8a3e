--[[ The directory: which shard holds a player, under which epoch. Entries are `shard:epoch` in hashes small enough to
  stay listpacks. A key comes once per player, so keys may repeat; all of one call lie in one slot. ]]

--[[ rb1_point: an entry takes the higher epoch. Pointing with epoch 1 claims a player who has no entry yet.
  KEYS  per player: its directory bucket
  ARGV  per player: member, shard, epoch
  Reply per player: the entry as it is now. It is always rewritten, so that a WAIT covers it whoever wrote it. ]]
local function rb1_point(keys, args)
  if #args ~= 3 * #keys or not are_whole(args, 2, 3, MOST_EPOCH) or not are_whole(args, 3, 3, MOST_EPOCH) then
    return redis.error_reply('RBFORM three arguments a player: member, shard, epoch')
  end
  local reply = {}
  for i, key in ipairs(keys) do
    local at = i * 3 - 2
    local member, shard, epoch = args[at], args[at + 1], tonumber(args[at + 2])
    local entry = redis.call('HGET', key, member)
    if not entry or tonumber(string.match(entry, ':(%d+)$')) < epoch then
      entry = shard .. ':' .. text(epoch)
    end
    redis.call('HSET', key, member, entry)
    reply[i] = entry
  end
  return reply
end

redis.register_function('rb1_point', rb1_point)
