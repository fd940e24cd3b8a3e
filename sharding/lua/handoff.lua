--[[ The four steps that move players between shards (handoff/states.py holds the table they keep). Each is idempotent,
  may be repeated by anybody, and takes many players at once; each answers what it found, so that whoever calls can go
  on. The actor waits for a replica after each of the first three. The head counts each player's step in `moves`, by which a
  reader sees that nobody moved between two looks (reader.py). ]]

local DEPARTED, AT_HOME, NOT_HERE, OTHER_EPOCH, MISDIRECTED = 1, 2, 3, 4, 5
local ARRIVED, ALREADY = 1, 2
local MOVE_HEAD = 3

local function epoch_of_row(keys, member)
  return tonumber(redis.call('HGET', keys[EPOCHS], member) or 1)
end

local function tombstone(keys, member)
  return redis.call('HGET', keys[GONE], member) or redis.call('HGET', keys[GONE_BEFORE], member)
end

local function is_whole(number)
  return type(number) == 'number' and number == math.floor(number) and math.abs(number) < MOST_EXACT
end

local function are_events(events)
  return type(events) == 'string' and #events % EVENT == 0
end

--[[ A payload is {version, packed, epoch, target, recent window, recent, recent before}, and 1 at the end for a hidden
  player; nil for any other form. ]]
local function unpack_payload(payload)
  local fine, content = pcall(cmsgpack.unpack, payload)
  if not fine or type(content) ~= 'table' or content[1] ~= PAYLOAD or #content < 7 or #content > 8 then
    return nil
  end
  for field = 2, 5 do
    if not is_whole(content[field]) then
      return nil
    end
  end
  if not are_events(content[6]) or not are_events(content[7]) then
    return nil
  end
  return { packed = content[2], epoch = content[3], target = content[4], window = content[5], recent = content[6],
    before = content[7], hidden = content[8] == 1 }
end

--[[ rb1_depart: LIVE(e) and a stray -> LEAVING(e+1, payload); the row leaves the ranking, frozen.
  KEYS  the source shard's
  ARGV  recent window, gone window, 0, then per player: member, the epoch it is expected under, target shard
  Reply version of the map, then per player code and detail:
        departed     payload; also if it was leaving before
        at home      ''          the row is in the shard's range
        not here     epoch:target of the tombstone, or ''
        other epoch  the row's epoch
        misdirected  ''          the target is this very shard ]]
local function rb1_depart(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - MOVE_HEAD) % 3 ~= 0 or not are_numbers(args, MOVE_HEAD + 2, 3) or not are_numbers(args, MOVE_HEAD + 3, 3) then
    return redis.error_reply('RBFORM three arguments a player: member, epoch, target')
  end
  local reply, left = { head.version }, 0
  for at = MOVE_HEAD + 1, #args, 3 do
    local member, expected, target = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
    local packed, key = row_of(keys, member)
    local code, detail = NOT_HERE, ''
    if not packed then
      local payload = redis.call('HGET', keys[LEAVING], member)
      if payload then
        code, detail = DEPARTED, payload
      elseif not key then
        detail = tombstone(keys, member) or ''
      end
    else
      local epoch = epoch_of_row(keys, member)
      if epoch ~= expected then
        code, detail = OTHER_EPOCH, text(epoch)
      elseif not is_stray(head, member, packed) then
        code = AT_HOME
      elseif target == head.shard then
        code = MISDIRECTED
      else
        code = DEPARTED
        detail = cmsgpack.pack({ PAYLOAD, packed, epoch + 1, target, tonumber(args[1]),
          redis.call('HGET', keys[RECENT], member) or '', redis.call('HGET', keys[RECENT_BEFORE], member) or '',
          key == ASIDE and 1 or nil })
        redis.call('HSET', keys[LEAVING], member, detail)
        redis.call('ZREM', keys[key], member)
        redis.call('HDEL', keys[EPOCHS], member)
        redis.call('HDEL', keys[RECENT], member)
        redis.call('HDEL', keys[RECENT_BEFORE], member)
        left = left + (key == ROWS and points_of(head, packed) or 0)
        redis.call('HINCRBY', keys[HEAD], 'moves', 1)
      end
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  redis.call('HINCRBY', keys[HEAD], 'points', text(-left))
  touch(keys, head)
  return reply
end

local function keep_recent(key, window, window_ms, member, events)
  if events ~= '' then
    redis.call('HSET', key, member, events)
    expire_window(key, window, window_ms)
  else
    redis.call('HDEL', key, member) -- those of a row that is replaced
  end
end

--[[ The events of a payload, as this shard remembers them. A payload of a later window is of a shard whose clock is
  ahead, at the edge of a window: its events are kept as new ones, or a retry would count again. ]]
local function keep_events(keys, head, member, window, payload)
  local recent, before = '', ''
  if payload.window > window then
    recent = payload.before .. payload.recent
  elseif payload.window == window then
    recent, before = payload.recent, payload.before
  elseif payload.window == window - 1 then
    before = payload.recent
  end
  keep_recent(keys[RECENT], window, head.recent_ms, member, recent)
  keep_recent(keys[RECENT_BEFORE], window - 1, head.recent_ms, member, before)
end

--[[ rb1_arrive: no entry, or one of a lower epoch -> LIVE(e+1); otherwise it was there already and nothing changes.
  KEYS  the target shard's
  ARGV  recent window, gone window, 1 to tell places, then per player: member, payload
  Reply version of the map, then per player code, epoch of what is here now, place (or -1), 1 if the row is a stray
        arrived | already | misdirected (the payload is of another shard or version) ]]
local function rb1_arrive(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - MOVE_HEAD) % 2 ~= 0 then
    return redis.error_reply('RBFORM two arguments a player')
  end
  local window, reply, came = tonumber(args[1]), { head.version }, 0
  for at = MOVE_HEAD + 1, #args, 2 do
    local member, payload = args[at], unpack_payload(args[at + 1])
    local code, epoch, place, stray = MISDIRECTED, 0, -1, 0
    local leaving = redis.call('HGET', keys[LEAVING], member)
    local departed = leaving and unpack_payload(leaving)
    -- Beside a payload of another version it cannot be told which of the two is newer.
    if payload and payload.target == head.shard and (departed or not leaving) then
      local here = 0
      local packed, key = row_of(keys, member)
      local gone = tombstone(keys, member)
      if key then
        here = epoch_of_row(keys, member)
      end
      if departed then
        here = math.max(here, departed.epoch)
      end
      if gone then
        here = math.max(here, (gone_entry(gone)))
      end
      code, epoch = ALREADY, here
      if payload.epoch > here then
        came = came - (key == ROWS and points_of(head, packed) or 0)
        if key then
          redis.call('ZREM', keys[key], member)
        end
        code, epoch, packed, key = ARRIVED, payload.epoch, payload.packed, payload.hidden and ASIDE or ROWS
        came = came + (key == ROWS and points_of(head, packed) or 0)
        redis.call('ZADD', keys[key], text(packed), member)
        redis.call('HSET', keys[EPOCHS], member, text(epoch))
        redis.call('HDEL', keys[LEAVING], member)
        redis.call('HINCRBY', keys[HEAD], 'moves', 1)
        keep_events(keys, head, member, window, payload)
      end
      if packed then
        stray = is_stray(head, member, packed) and 1 or 0
        if args[3] == '1' and key == ROWS then
          place = redis.call('ZRANK', keys[ROWS], member)
        end
      end
    end
    local slot = #reply
    reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] = code, epoch, place, stray
  end
  redis.call('HINCRBY', keys[HEAD], 'points', text(came))
  touch(keys, head)
  return reply
end

--[[ rb1_finish: LEAVING(e+1) -> GONE(e+1, target); any other state stays as it is.
  KEYS  the source shard's
  ARGV  recent window, gone window, 0, then per player: member, epoch
  Reply version of the map, then 1 per player that is now gone, 0 for any other ]]
local function rb1_finish(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - MOVE_HEAD) % 2 ~= 0 or not are_numbers(args, MOVE_HEAD + 2, 2) then
    return redis.error_reply('RBFORM two arguments a player: member, epoch')
  end
  local reply, wrote = { head.version }, false
  for at = MOVE_HEAD + 1, #args, 2 do
    local member, epoch = args[at], tonumber(args[at + 1])
    local leaving = redis.call('HGET', keys[LEAVING], member)
    local payload = leaving and unpack_payload(leaving)
    local gone = payload and payload.epoch == epoch
    if gone then
      redis.call('HDEL', keys[LEAVING], member)
      redis.call('HSET', keys[GONE], member, text(epoch) .. ':' .. text(payload.target))
      wrote = true
      redis.call('HINCRBY', keys[HEAD], 'moves', 1)
    end
    reply[#reply + 1] = gone and 1 or 0
  end
  if wrote then
    expire_window(keys[GONE], tonumber(args[2]), GONE_MS)
  end
  return reply
end

--[[ rb1_strays: who has to leave this shard, and who is on the way out.
  KEYS  the shard's
  ARGV  recent window, gone window, the most to list of each kind
  Reply version of the map, then per player: member, epoch, packed score, payload ('' for a row that has not departed)
  Strays of a range split by player hash are not found here: they lie anywhere in the rows. ]]
local function rb1_strays(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local most, reply = args[3], { head.version }
  local leaving = redis.call('HRANDFIELD', keys[LEAVING], most, 'WITHVALUES')
  for i = 1, #leaving, 2 do
    local payload = unpack_payload(leaving[i + 1])
    if payload then -- one of another version waits for a process that knows it, and nobody waits for that one
      local slot = #reply
      reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] =
        leaving[i], payload.epoch, text(payload.packed), leaving[i + 1]
    end
  end
  for _, side in ipairs({ { '-inf', '(' .. text(head.low) }, { text(head.high), '(+inf' } }) do
    for _, key in ipairs({ ROWS, ASIDE }) do
      local rows = redis.call('ZRANGE', keys[key], side[1], side[2], 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
      for i = 1, #rows, 2 do
        local slot = #reply
        reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] =
          rows[i], epoch_of_row(keys, rows[i]), text(tonumber(rows[i + 1])), ''
      end
    end
  end
  return reply
end

redis.register_function('rb1_depart', rb1_depart)
redis.register_function('rb1_arrive', rb1_arrive)
redis.register_function('rb1_finish', rb1_finish)
redis.register_function({ function_name = 'rb1_strays', callback = rb1_strays, flags = { 'no-writes' } })
