--[[ Who has to leave a shard. Rows outside of its packed scores stand at the two ends of the ranking, and are found
  there. Where a range is split by player hash, rows of another part lie anywhere: only a shard whose part has changed
  has such, and it is combed for them, a few hundred rows a call. The head says so (`comb`), and how far that is: how many
  strays this pass has found, and the place in the ranking before which it has looked; with an `a`, the place in ASIDE,
  where the rows of hidden players are looked at last.

  A row that is played takes another place, perhaps one that the comb has passed. Whoever plays it is told that it is a
  stray and moves it; for those who die before that, the comb begins anew until it has found nothing from end to end. ]]

local MOST_COMBED = 500 -- rows looked at in one call

--[[ Add players to a list as rb1_strays has them: member, epoch, packed score, and '' in place of a payload. ]]
local function list_rows(keys, list, members, packed)
  if #members == 0 then
    return
  end
  local epochs = redis.call('HMGET', keys[EPOCHS], unpack(members))
  local slot = #list
  for i, member in ipairs(members) do
    list[slot + 1], list[slot + 2], list[slot + 3], list[slot + 4] =
      member, tonumber(epochs[i] or 1), tonumber(packed[i]), ''
    slot = slot + 4
  end
end

--[[ rb1_strays: who has to leave this shard, and who is on the way out.
  KEYS  the shard's
  ARGV  recent window, gone window, the most to list of each kind
  Reply version of the map, 1 if the shard is to be combed, msgpack of one flat list with four per player: member, epoch,
        packed score, payload ('' for a row that has not departed) ]]
local function rb1_strays(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local most, list = args[3], {}
  local leaving = redis.call('HRANDFIELD', keys[LEAVING], most, 'WITHVALUES')
  for i = 1, #leaving, 2 do
    local packed, epoch = unpack_payload(leaving[i + 1])
    if packed then -- one of another version waits for a process that knows it, and nobody waits for that one
      local slot = #list
      list[slot + 1], list[slot + 2], list[slot + 3], list[slot + 4] = leaving[i], epoch, packed, leaving[i + 1]
    end
  end
  for _, key in ipairs({ ROWS, ASIDE }) do -- the marks of removed players stand at infinity
    for _, side in ipairs({ { '-inf', '(' .. text(head.low) }, { text(head.high), '(+inf' } }) do
      local rows = redis.call('ZRANGE', keys[key], side[1], side[2], 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
      local members, packed = {}, {}
      for i = 1, #rows, 2 do
        members[#members + 1], packed[#packed + 1] = rows[i], rows[i + 1]
      end
      list_rows(keys, list, members, packed)
    end
  end
  return { head.version, redis.call('HEXISTS', keys[HEAD], 'comb'), cmsgpack.pack(list) }
end

--[[ rb1_comb: some of the rows that belong to another part of the range, if the shard is to be combed. Goes on where
  the last call stopped, and over a place only when no stray is left before it.
  KEYS  the shard's
  ARGV  recent window, gone window
  Reply version of the map, 1 if there is more to comb, then as rb1_strays ]]
local function rb1_comb(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local comb = redis.call('HGET', keys[HEAD], 'comb')
  if not comb then
    return { head.version, 0, cmsgpack.pack({}) }
  end
  local found, from, after = string.match(comb, '^(%d+):([^:]*):(.*)$')
  local half, packed_from = string.match(from, '^(a?)(.*)$')
  local key = keys[half == 'a' and ASIDE or ROWS]
  local start = rows_ahead(key, packed_from, after)
  local rows = redis.call('ZRANGE', key, start, start + MOST_COMBED - 1, 'WITHSCORES')
  local members, packed = {}, {}
  for i = 1, #rows, 2 do
    if rows[i + 1] ~= REMOVED_MARK and not is_of_part(head, rows[i]) then
      members[#members + 1], packed[#packed + 1] = rows[i], rows[i + 1]
    end
  end
  local more, list = 1, {}
  found = tonumber(found) + #members
  if #members > 0 then
    redis.call('HSET', keys[HEAD], 'comb', text(found) .. ':' .. from .. ':' .. after)
  elseif #rows == 2 * MOST_COMBED then
    local last = #rows - 1
    redis.call('HSET', keys[HEAD], 'comb', text(found) .. ':' .. half .. text(tonumber(rows[last + 1])) .. ':' .. rows[last])
  elseif half == '' and redis.call('EXISTS', keys[ASIDE]) == 1 then
    redis.call('HSET', keys[HEAD], 'comb', text(found) .. ':a-inf:')
  elseif found > 0 then
    redis.call('HSET', keys[HEAD], 'comb', COMB_BEGUN)
  else
    redis.call('HDEL', keys[HEAD], 'comb')
    more = 0
  end
  list_rows(keys, list, members, packed)
  return { head.version, more, cmsgpack.pack(list) }
end

redis.register_function({ function_name = 'rb1_strays', callback = rb1_strays, flags = { 'no-writes' } })
redis.register_function('rb1_comb', rb1_comb)
