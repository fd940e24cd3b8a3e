--[[ Reads. None of them writes; all may run on a replica. ]]

local LIVE = 1 -- and IS_LEAVING, IS_GONE, IS_HIDDEN, UNKNOWN of apply.lua
local MOST_LEAVING = 500
local MOST_ASTRAY = 64

--[[ rb1_find: what a shard knows of players.
  KEYS  the shard's
  ARGV  recent window, gone window, 0, then per player: member
  Reply version of the map, then per player code and detail: live, packed score | hidden, packed score |
        leaving, payload | gone, epoch:target | unknown, ''. Who was removed is unknown. ]]
local function rb1_find(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local reply = { head.version }
  for at = WINDOWS + 2, #args do
    local member = args[at]
    local packed, key = row_of(keys, member)
    local code, detail = key == ROWS and LIVE or IS_HIDDEN, packed and text(packed)
    if not key then
      code, detail = IS_LEAVING, redis.call('HGET', keys[LEAVING], member)
      if not detail then
        code, detail = IS_GONE, tombstone(keys, member)
      end
    end
    if not detail then
      code, detail = UNKNOWN, ''
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  return reply
end

--[[ rb1_places: the rows of players, and where they stand.
  KEYS  rows
  ARGV  the first packed score of the shard's range, then per player: member
  Reply how many rows are better than the range; then per player packed score, or '' if there is no row, and place
        (0-based, or -1) ]]
local function rb1_places(keys, args)
  local reply = { redis.call('ZCOUNT', keys[1], '-inf', '(' .. args[1]) }
  for i = 2, #args do
    local row = redis.call('ZRANK', keys[1], args[i], 'WITHSCORE')
    reply[2 * i - 2] = row and row[2] or ''
    reply[2 * i - 1] = row and row[1] or -1
  end
  return reply
end

--[[ Whether one member stands before another, in the order of their bytes: Lua's own < goes by the server's locale. ]]
local function stands_before(one, other)
  local shorter = math.min(#one, #other)
  for i = 1, shorter do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

--[[ How many rows of a shard rank before a packed score and member. Rows of equal packed score stand in the order of
  their members, so those are searched by halves. ]]
local function rows_ahead(rows, packed, member)
  local ahead = redis.call('ZCOUNT', rows, '-inf', '(' .. packed)
  local low, high = ahead, ahead
  if member ~= '' then
    high = ahead + redis.call('ZCOUNT', rows, packed, packed)
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if stands_before(redis.call('ZRANGE', rows, middle, middle)[1], member) then
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
  Reply per place: the number of rows; the member's own row is none of them, wherever it is by now
  Cost  O(log N), and O(log n log N) where n rows have that very packed score ]]
local function rb1_ahead(keys, args)
  local reply = {}
  for at = 1, #args, 2 do
    local packed, member = args[at], args[at + 1]
    local ahead = rows_ahead(keys[1], packed, member)
    local own = member ~= '' and redis.call('ZSCORE', keys[1], member)
    if own and tonumber(own) < tonumber(packed) then
      ahead = ahead - 1
    end
    reply[#reply + 1] = ahead
  end
  return reply
end

local function append_rows(reply, rows)
  for i = 1, #rows, 2 do
    reply[#reply + 1], reply[#reply + 2] = rows[i], text(tonumber(rows[i + 1]))
  end
end

--[[ rb1_after: the rows of a shard from a place in the ranking on.
  KEYS  rows
  ARGV  packed score, member, the most rows to give, a packed score or -inf: better rows than that do not count
  Reply how many rows rank before, then per row: member, packed score ]]
local function rb1_after(keys, args)
  local ahead = rows_ahead(keys[1], args[1], args[2])
  local reply = { ahead - redis.call('ZCOUNT', keys[1], '-inf', '(' .. args[4]) }
  local most = tonumber(args[3])
  if most > 0 then
    append_rows(reply, redis.call('ZRANGE', keys[1], ahead, ahead + most - 1, 'WITHSCORES'))
  end
  return reply
end

--[[ rb1_within: some rows of a shard's range, by their place in it.
  KEYS  rows
  ARGV  the range's first packed score, the place (0-based), the most rows to give
  Reply per row: member, packed score. Rows worse than the range follow it as if they were of it. ]]
local function rb1_within(keys, args)
  local from = redis.call('ZCOUNT', keys[1], '-inf', '(' .. args[1]) + args[2]
  local reply = {}
  append_rows(reply, redis.call('ZRANGE', keys[1], from, from + args[3] - 1, 'WITHSCORES'))
  return reply
end

--[[ The row half way from one place of a shard to another: member and packed score, or '' and '' between equal ones. ]]
local function middle_row(rows, low, high)
  if low < high then
    local middle = math.floor((low + high) / 2)
    local row = redis.call('ZRANGE', rows, middle, middle, 'WITHSCORES')
    if row[1] then
      return row[1], text(tonumber(row[2]))
    end
  end
  return '', ''
end

--[[ rb1_halve: one step of the search for a rank (reader.py): how many rows rank before a place in the ranking, and the
  rows that would halve what lies on both sides of it.
  KEYS  rows
  ARGV  packed score, member, and the two places of this shard between which is searched
  Reply the number of rows before; then member and packed score of the middle row between the first place and that
        number, and of the one between that number and the second ]]
local function rb1_halve(keys, args)
  local ahead = rows_ahead(keys[1], args[1], args[2])
  local reply = { ahead }
  reply[2], reply[3] = middle_row(keys[1], tonumber(args[3]), ahead)
  reply[4], reply[5] = middle_row(keys[1], ahead, tonumber(args[4]))
  return reply
end

--[[ rb1_shape: how a shard's rows lie to the range it serves.
  KEYS  rows head leaving
  Reply version of the map, rows, rows better than the range, rows worse than the range, submissions ever,
        sum of points, players leaving, steps of moves ever, and the range: first packed score, and the one behind the
        last; then, if they are few, the rows better than the range and those worse: member, packed score of each ]]
local function rb1_shape(keys)
  local field = redis.call('HMGET', keys[2], 'version', 'low', 'high', 'submissions', 'points', 'moves')
  if not field[1] then
    return redis.error_reply('RBNOHEAD it was never opened, or is gone')
  end
  local better = redis.call('ZCOUNT', keys[1], '-inf', '(' .. field[2])
  local worse = redis.call('ZCOUNT', keys[1], field[3], '+inf')
  local reply = { tonumber(field[1]), redis.call('ZCARD', keys[1]), better, worse, tonumber(field[4] or 0),
    tonumber(field[5] or 0), redis.call('HLEN', keys[3]), tonumber(field[6] or 0), field[2], field[3] }
  if better + worse <= MOST_ASTRAY then
    if better > 0 then
      append_rows(reply, redis.call('ZRANGE', keys[1], 0, better - 1, 'WITHSCORES'))
    end
    if worse > 0 then
      append_rows(reply, redis.call('ZRANGE', keys[1], -worse, -1, 'WITHSCORES'))
    end
  end
  return reply
end

local QUESTIONS = { ahead = rb1_ahead, after = rb1_after, places = rb1_places, within = rb1_within }

--[[ rb1_look: the shape of a shard and whatever else a read asks it, at one moment.
  KEYS  rows head leaving
  ARGV  per question: its name, how many arguments it has, and those of the function rb1_<name>
  Reply the reply of rb1_shape, then that of each question ]]
local function rb1_look(keys, args)
  local shape = rb1_shape(keys)
  if shape.err then
    return shape
  end
  local reply, at = { shape }, 1
  while at < #args do
    local own, last = {}, at + 1 + args[at + 1]
    for i = at + 2, last do
      own[#own + 1] = args[i]
    end
    reply[#reply + 1] = QUESTIONS[args[at]](keys, own)
    at = last + 1
  end
  return reply
end

--[[ rb1_leaving: some of the players who are on the way out.
  KEYS  leaving
  Reply per player: member, payload ]]
local function rb1_leaving(keys)
  return redis.call('HRANDFIELD', keys[1], MOST_LEAVING, 'WITHVALUES')
end

local function register_read(name, callback)
  redis.register_function({ function_name = name, callback = callback, flags = { 'no-writes' } })
end

register_read('rb1_find', rb1_find)
register_read('rb1_places', rb1_places)
register_read('rb1_ahead', rb1_ahead)
register_read('rb1_after', rb1_after)
register_read('rb1_within', rb1_within)
register_read('rb1_halve', rb1_halve)
register_read('rb1_shape', rb1_shape)
register_read('rb1_look', rb1_look)
register_read('rb1_leaving', rb1_leaving)
