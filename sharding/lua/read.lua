--[[ Reads. None of them writes; all may run on a replica. ]]

local LIVE = 1 -- and IS_LEAVING, IS_GONE, UNKNOWN of apply.lua

--[[ rb1_find: what a shard knows of players.
  KEYS  the shard's
  ARGV  recent window, gone window, 0, then per player: member
  Reply version of the map, then per player code and detail: live, packed score | leaving, payload |
        gone, epoch:target | unknown, '' ]]
local function rb1_find(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local reply = { head.version }
  for at = MOVE_HEAD + 1, #args do
    local member = args[at]
    local code, detail = LIVE, redis.call('ZSCORE', keys[ROWS], member)
    if detail then
      detail = text(tonumber(detail))
    else
      code, detail = IS_LEAVING, redis.call('HGET', keys[LEAVING], member)
    end
    if not detail then
      code, detail = IS_GONE, tombstone(keys, member)
    end
    if not detail then
      code, detail = UNKNOWN, ''
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  return reply
end

--[[ How many rows of a shard rank before a packed score and member. Rows of equal packed score stand in the order of
  their members, so those are searched by halves. ]]
local function rows_ahead(rows, packed, member)
  local ahead = redis.call('ZCOUNT', rows, '-inf', '(' .. packed)
  local equal = redis.call('ZCOUNT', rows, packed, packed)
  local low, high = ahead, ahead + equal
  while low < high do
    local middle = math.floor((low + high) / 2)
    if redis.call('ZRANGE', rows, middle, middle)[1] < member then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

--[[ rb1_ahead: how many rows of a shard rank before each of some places in the ranking.
  KEYS  rows
  ARGV  per place: packed score, member
  Reply per place: the number of rows
  Cost  O(log N), and O(log n log N) where n rows have that very packed score ]]
local function rb1_ahead(keys, args)
  local reply = {}
  for at = 1, #args, 2 do
    reply[#reply + 1] = rows_ahead(keys[1], args[at], args[at + 1])
  end
  return reply
end

--[[ rb1_shape: how a shard's rows lie to the range it serves.
  KEYS  rows head
  Reply version of the map, rows, rows better than the range, rows worse than the range, submissions ever,
        sum of points ]]
local function rb1_shape(keys)
  local field = redis.call('HMGET', keys[2], 'version', 'low', 'high', 'submissions', 'points')
  if not field[1] then
    return redis.error_reply('RBNOHEAD')
  end
  return { tonumber(field[1]), redis.call('ZCARD', keys[1]), redis.call('ZCOUNT', keys[1], '-inf', '(' .. field[2]),
    redis.call('ZCOUNT', keys[1], field[3], '+inf'), tonumber(field[4] or 0), tonumber(field[5] or 0) }
end

redis.register_function({ function_name = 'rb1_find', callback = rb1_find, flags = { 'no-writes' } })
redis.register_function({ function_name = 'rb1_ahead', callback = rb1_ahead, flags = { 'no-writes' } })
redis.register_function({ function_name = 'rb1_shape', callback = rb1_shape, flags = { 'no-writes' } })
