--[[ The four steps that move players between shards (handoff/states.py holds the table they keep). Each is idempotent,
  may be repeated by anybody, and takes many players at once; each answers what it found, so that whoever calls can go
  on. The actor waits for a replica after each of the first three. The head counts each player's step in `moves`, by which a
  reader sees that nobody moved between two looks (reader.py).

  A range that moves moves tens of thousands of players a second, and a command costs more than what it does for one
  player. So each step first reads what it needs of all players, one command a key; then takes them in turn, in the order
  they were given, changing nothing but what it knows of them; then writes, again one command a key. ]]

local DEPARTED, AT_HOME, NOT_HERE, OTHER_EPOCH, MISDIRECTED = 1, 2, 3, 4, 5
local ARRIVED, ALREADY = 1, 2
local MOVE_HEAD = 3
local MOST_MOVED = 2000 -- players in one call; unpack() takes less than 8,000 values
local COMB_BEGUN = '0:-inf:'

local function epoch_of_row(keys, member)
  return tonumber(redis.call('HGET', keys[EPOCHS], member) or 1)
end

local function tombstone(keys, member)
  return redis.call('HGET', keys[GONE], member) or redis.call('HGET', keys[GONE_BEFORE], member)
end

local function is_whole(number)
  return type(number) == 'number' and number % 1 == 0 and number < MOST_EXACT and number > -MOST_EXACT
end

local function are_events(events)
  return type(events) == 'string' and #events % EVENT == 0
end

--[[ A payload is {version, packed, epoch, target, recent window, recent, recent before}; nil for any other form. ]]
local function unpack_payload(payload)
  local fine, content = pcall(cmsgpack.unpack, payload)
  if not fine or type(content) ~= 'table' or content[1] ~= PAYLOAD or #content ~= 7 then
    return nil
  end
  if not (is_whole(content[2]) and is_whole(content[3]) and is_whole(content[4]) and is_whole(content[5])
    and are_events(content[6]) and are_events(content[7])) then
    return nil
  end
  return { packed = content[2], epoch = content[3], target = content[4], window = content[5], recent = content[6],
    before = content[7] }
end

--[[ Whether the arguments behind the head of a step come in groups of so many, and are not too many. ]]
local function are_groups(args, size)
  local count = (#args - MOVE_HEAD) / size
  return count == math.floor(count) and count >= 0 and count <= MOST_MOVED
end

--[[ Each distinct member of such arguments, in the order of their first appearance, and a table for what is known of it. ]]
local function named_players(args, size)
  local members, states = {}, {}
  for at = MOVE_HEAD + 1, #args, size do
    local member = args[at]
    if not states[member] then
      members[#members + 1] = member
      states[member] = {}
    end
  end
  return members, states
end

--[[ Put what a hash has of members into their states, under a name; nil for what it does not have. ]]
local function read_hash(key, members, states, name)
  if #members == 0 then
    return
  end
  local values = redis.call('HMGET', key, unpack(members))
  for i, member in ipairs(members) do
    states[member][name] = values[i] or states[member][name]
  end
end

--[[ Put rows into the states of members: packed score and epoch. The members that have one, and those that have none. ]]
local function read_rows(keys, members, states)
  local here, absent = {}, {}
  if #members > 0 then
    local packed = redis.call('ZMSCORE', keys[ROWS], unpack(members))
    for i, member in ipairs(members) do
      if packed[i] then
        states[member].packed = tonumber(packed[i])
        here[#here + 1] = member
      else
        absent[#absent + 1] = member
      end
    end
    read_hash(keys[EPOCHS], here, states, 'stored_epoch')
    for _, member in ipairs(here) do
      states[member].epoch = tonumber(states[member].stored_epoch or 1)
    end
  end
  return here, absent
end

--[[ A command with a key and a list, unless that is empty. ]]
local function write(command, key, list)
  if #list > 0 then
    redis.call(command, key, unpack(list))
  end
end

local function count_moves(keys, how_many, points)
  if how_many > 0 then
    redis.call('HINCRBY', keys[HEAD], 'moves', how_many)
    redis.call('HINCRBY', keys[HEAD], 'points', text(points))
  end
end

--[[ Rows of another part of the range may be anywhere in the shard: have it combed for them (strays.lua). A comb that is
  under way comes round once more. ]]
local function comb_again(keys)
  local comb = redis.call('HGET', keys[HEAD], 'comb')
  if comb then
    local found, rest = string.match(comb, '^(%d+)(:.*)$')
    redis.call('HSET', keys[HEAD], 'comb', text(found + 1) .. rest)
  else
    redis.call('HSET', keys[HEAD], 'comb', COMB_BEGUN)
  end
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
  if not are_groups(args, 3) or not are_numbers(args, MOVE_HEAD + 2, 3) or not are_numbers(args, MOVE_HEAD + 3, 3) then
    return redis.error_reply('RBFORM three arguments a player: member, epoch, target')
  end
  local members, states = named_players(args, 3)
  local here, absent = read_rows(keys, members, states)
  read_hash(keys[RECENT], here, states, 'recent')
  read_hash(keys[RECENT_BEFORE], here, states, 'before')
  read_hash(keys[LEAVING], absent, states, 'payload')
  read_hash(keys[GONE_BEFORE], absent, states, 'gone')
  read_hash(keys[GONE], absent, states, 'gone')

  local window, reply, slot, points = tonumber(args[1]), { head.version }, 1, 0
  local departed, payloads, had_epoch, had_recent, had_before = {}, {}, {}, {}, {}
  for at = MOVE_HEAD + 1, #args, 3 do
    local member, target = args[at], tonumber(args[at + 2])
    local state = states[member]
    local code, detail = NOT_HERE, state.gone or ''
    if state.payload then
      code, detail = DEPARTED, state.payload
    elseif state.packed then
      if state.epoch ~= tonumber(args[at + 1]) then
        code, detail = OTHER_EPOCH, text(state.epoch)
      elseif not is_stray(head, member, state.packed) then
        code = AT_HOME
      elseif target == head.shard then
        code = MISDIRECTED
      else
        code = DEPARTED
        detail = cmsgpack.pack({ PAYLOAD, state.packed, state.epoch + 1, target, window, state.recent or '',
          state.before or '' })
        state.payload = detail
        departed[#departed + 1] = member
        payloads[#payloads + 1] = member
        payloads[#payloads + 1] = detail
        had_epoch[#had_epoch + 1] = state.stored_epoch and member
        had_recent[#had_recent + 1] = state.recent and member
        had_before[#had_before + 1] = state.before and member
        points = points + points_of(head, state.packed)
      end
    end
    reply[slot + 1], reply[slot + 2] = code, detail
    slot = slot + 2
  end

  write('HSET', keys[LEAVING], payloads)
  write('ZREM', keys[ROWS], departed)
  write('HDEL', keys[EPOCHS], had_epoch)
  write('HDEL', keys[RECENT], had_recent)
  write('HDEL', keys[RECENT_BEFORE], had_before)
  count_moves(keys, #departed, -points)
  touch(keys, head)
  return reply
end

--[[ The events of a payload as those of a window and of the one before it. A payload of a later window is of a shard
  whose clock is ahead, at the edge of a window: its events are kept as new ones, or a retry would count again. ]]
local function events_at(window, payload)
  if payload.window > window then
    return payload.before .. payload.recent, ''
  elseif payload.window == window then
    return payload.recent, payload.before
  elseif payload.window == window - 1 then
    return '', payload.recent
  end
  return '', ''
end

--[[ Keep the events of members, and drop those of rows that were replaced by members without any. ]]
local function keep_events(key, window, window_ms, members, states, name)
  local kept, dropped = {}, {}
  for _, member in ipairs(members) do
    local events = states[member][name]
    if events ~= '' then
      kept[#kept + 1] = member
      kept[#kept + 1] = events
    else
      dropped[#dropped + 1] = member
    end
  end
  write('HDEL', key, dropped)
  write('HSET', key, kept)
  if #kept > 0 then
    expire_window(key, window, window_ms)
  end
end

--[[ What a shard knows of players who may arrive: row, epoch of whatever is here (0: nothing), and whether the payload
  that it has of them cannot be read: it cannot be told then which of the two is newer. ]]
local function read_arrivals(keys, members, states)
  read_rows(keys, members, states)
  read_hash(keys[LEAVING], members, states, 'leaving')
  read_hash(keys[GONE_BEFORE], members, states, 'gone')
  read_hash(keys[GONE], members, states, 'gone')
  for _, member in ipairs(members) do
    local state = states[member]
    state.here = state.epoch or 0
    if state.leaving then
      local departed = unpack_payload(state.leaving)
      state.unreadable = not departed
      state.here = math.max(state.here, departed and departed.epoch or 0)
    end
    if state.gone then
      state.here = math.max(state.here, (gone_entry(state.gone)))
    end
  end
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
  if not are_groups(args, 2) then
    return redis.error_reply('RBFORM two arguments a player')
  end
  local members, states = named_players(args, 2)
  read_arrivals(keys, members, states)

  local window, reply, slot, points, moves, of_other_part = tonumber(args[1]), { head.version }, 1, 0, 0, false
  for at = MOVE_HEAD + 1, #args, 2 do
    local member, payload = args[at], unpack_payload(args[at + 1])
    local state = states[member]
    local code, epoch, stray = MISDIRECTED, 0, 0
    if payload and payload.target == head.shard and not state.unreadable then
      if payload.epoch > state.here then
        points = points + points_of(head, payload.packed) - (state.packed and points_of(head, state.packed) or 0)
        moves = moves + 1
        state.here, state.packed, state.came = payload.epoch, payload.packed, true
        state.recent, state.before = events_at(window, payload)
        of_other_part = of_other_part or not is_of_part(head, member)
        code = ARRIVED
      else
        code = ALREADY
      end
      epoch = state.here
      if state.packed and is_stray(head, member, state.packed) then
        stray = 1
      end
    end
    reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] = code, epoch, -1, stray
    slot = slot + 4
  end

  local came, rows, epochs, left = {}, {}, {}, {}
  for _, member in ipairs(members) do
    local state = states[member]
    if state.came then
      came[#came + 1] = member
      rows[#rows + 1] = state.packed + 0 -- as a number: commands get 17 digits of it
      rows[#rows + 1] = member
      epochs[#epochs + 1] = member
      epochs[#epochs + 1] = text(state.here)
      left[#left + 1] = state.leaving and member
    end
  end
  write('ZADD', keys[ROWS], rows)
  write('HSET', keys[EPOCHS], epochs)
  write('HDEL', keys[LEAVING], left)
  keep_events(keys[RECENT], window, head.recent_ms, came, states, 'recent')
  keep_events(keys[RECENT_BEFORE], window - 1, head.recent_ms, came, states, 'before')
  count_moves(keys, moves, points)
  if of_other_part then
    comb_again(keys)
  end
  touch(keys, head)

  if args[3] == '1' then
    slot = 1
    for at = MOVE_HEAD + 1, #args, 2 do
      if reply[slot + 1] ~= MISDIRECTED and states[args[at]].packed then
        reply[slot + 3] = redis.call('ZRANK', keys[ROWS], args[at])
      end
      slot = slot + 4
    end
  end
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
  if not are_groups(args, 2) or not are_numbers(args, MOVE_HEAD + 2, 2) then
    return redis.error_reply('RBFORM two arguments a player: member, epoch')
  end
  local members, states = named_players(args, 2)
  read_hash(keys[LEAVING], members, states, 'leaving')
  local reply, finished, tombstones = { head.version }, {}, {}
  for at = MOVE_HEAD + 1, #args, 2 do
    local member, state = args[at], states[args[at]]
    local payload = state.leaving and unpack_payload(state.leaving)
    local gone = payload and payload.epoch == tonumber(args[at + 1])
    if gone then
      state.leaving = nil
      finished[#finished + 1] = member
      tombstones[#tombstones + 1] = member
      tombstones[#tombstones + 1] = text(payload.epoch) .. ':' .. text(payload.target)
    end
    reply[#reply + 1] = gone and 1 or 0
  end
  write('HDEL', keys[LEAVING], finished)
  write('HSET', keys[GONE], tombstones)
  if #finished > 0 then
    expire_window(keys[GONE], tonumber(args[2]), GONE_MS)
    count_moves(keys, #finished, 0)
  end
  return reply
end

redis.register_function('rb1_depart', rb1_depart)
redis.register_function('rb1_arrive', rb1_arrive)
redis.register_function('rb1_finish', rb1_finish)
