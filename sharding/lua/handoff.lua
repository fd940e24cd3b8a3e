--[[ The four steps that move players between shards (handoff/states.py holds the table they keep). Each is idempotent,
  may be repeated by anybody, and takes many players at once, each of them once; each answers what it found, so that
  whoever calls can go on. The actor waits for a replica after each of the first three. The head counts each player's step
  in `moves`, by which a reader sees that nobody moved between two looks (reader.py); so do the scrub and repairs.

  A range that moves takes tens of thousands of players a second with it, and a command costs more than what it does for
  one player. So each step reads what it needs of all players, one command a key (the replies lie in the order of the
  players); then decides for each of them; then writes, again one command a key.

  ARGV of a step: recent window, gone window, and the players as msgpack of one flat list.
  Reply: version of the map, and what the step found as msgpack of another. ]]

local DEPARTED, AT_HOME, NOT_HERE, OTHER_EPOCH, MISDIRECTED = 1, 2, 3, 4, 5
local ARRIVED, ALREADY = 1, 2
local PLAYERS = 3
local MOST_MOVED = 2000 -- players in one call; unpack() takes less than 8,000 values
local SHORT_LIST = 0x90 -- msgpack's head of a list, with its length in the lower half
local NONE = {}

local function epoch_of_row(keys, member)
  return tonumber(redis.call('HGET', keys[EPOCHS], member) or 1)
end

local function tombstone(keys, member)
  return redis.call('HGET', keys[GONE], member) or redis.call('HGET', keys[GONE_BEFORE], member)
end

local function is_whole(number, limit)
  return type(number) == 'number' and number % 1 == 0 and number > -limit and number < limit
end

local function are_events(events)
  return type(events) == 'string' and #events % EVENT == 0
end

--[[ A payload is {version, packed, epoch, target, recent window, recent, recent before}, and 1 at the end for a hidden
  player: all of them but the version, or nothing for any other form. ]]
local function unpack_payload(payload)
  local count = type(payload) == 'string' and payload ~= '' and string.byte(payload) - SHORT_LIST
  if count ~= 7 and count ~= 8 then
    return nil
  end
  -- one value after the other, from behind the head: a table for each payload would take longer than what is done with it
  local fine, rest, version, packed, epoch, target, window, recent, before, hidden =
    pcall(cmsgpack.unpack_limit, payload, count, 1)
  if fine and rest == -1 and version == PAYLOAD and (count == 7 or hidden == 1)
    and is_whole(packed, MOST_EXACT) and is_whole(epoch, MOST_EPOCH) and is_whole(target, MOST_EPOCH)
    and is_whole(window, MOST_EXACT) and are_events(recent) and are_events(before) then
    return packed, epoch, target, window, recent, before, hidden
  end
end

--[[ The members in a packed list, one in each group of so many values, and the list; nil if it is not one of whole groups,
  or of too many, or names a player twice. ]]
local function players_named(packed, size)
  local items = unpack_list(packed)
  if not items or #items % size ~= 0 or #items > MOST_MOVED * size or not are_strings(items, size) then
    return nil
  end
  local members, seen = {}, {}
  for at = 1, #items, size do
    local member = items[at]
    if seen[member] then
      return nil
    end
    seen[member] = true
    members[#members + 1] = member
  end
  return members, items
end

--[[ What a hash, or the rows, have of members; false for what they do not have, and nothing at all where there is no such
  key: to ask it for every member costs as much as if there were one. ]]
local function read_all(command, key, members)
  return #members > 0 and redis.call('EXISTS', key) == 1 and redis.call(command, key, unpack(members)) or NONE
end

--[[ A command with a key and a list, unless that is empty. ]]
local function write_all(command, key, list)
  if #list > 0 then
    redis.call(command, key, unpack(list))
  end
end

--[[ The rows of members: packed scores (false for none); the key that each is in, ROWS or ASIDE, also for the mark of one
  who was removed; and how many have a row or a mark. ]]
local function rows_of(keys, members)
  local packed = #members > 0 and redis.call('ZMSCORE', keys[ROWS], unpack(members)) or {}
  local key_of, count = {}, 0
  for i, row in ipairs(packed) do
    key_of[i] = row and ROWS
    count = count + (row and 1 or 0)
  end
  if count < #members then
    for i, row in ipairs(read_all('ZMSCORE', keys[ASIDE], members)) do
      if row then
        key_of[i], count = ASIDE, count + 1
        packed[i] = row ~= REMOVED_MARK and row
      end
    end
  end
  return packed, key_of, count
end

--[[ Count rows that came or went other than by play, and the points that the shard's rows have more for it. ]]
local function count_moves(keys, how_many, points)
  if how_many > 0 then
    redis.call('HINCRBY', keys[HEAD], 'moves', how_many)
    redis.call('HINCRBY', keys[HEAD], 'points', text(points))
  end
end

--[[ rb1_depart: LIVE(e) and a stray -> LEAVING(e+1, payload); the row leaves the ranking, frozen.
  KEYS  the source shard's
  List  per player: member, the epoch it is expected under, target shard
  Reply per player code and detail:
        departed     payload; also if it was leaving before
        at home      ''          the row is in the shard's range
        not here     epoch:target of the tombstone, or ''
        other epoch  the row's epoch
        misdirected  ''          the target is this very shard, or none of the board ]]
local function rb1_depart(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local members, items = players_named(args[PLAYERS], 3)
  if not members or not are_whole(items, 2, 3, MOST_EPOCH) or not are_whole(items, 3, 3, MOST_EPOCH) then
    return redis.error_reply('RBFORM three values a player: member, epoch, target')
  end
  local rows, key_of, here = rows_of(keys, members)
  local epochs, recent, before, leaving, gone, gone_before = NONE, NONE, NONE, NONE, NONE, NONE
  if here > 0 then
    epochs = read_all('HMGET', keys[EPOCHS], members)
    recent = read_all('HMGET', keys[RECENT], members)
    before = read_all('HMGET', keys[RECENT_BEFORE], members)
  end
  if here < #members then
    leaving = read_all('HMGET', keys[LEAVING], members)
    gone = read_all('HMGET', keys[GONE], members)
    gone_before = read_all('HMGET', keys[GONE_BEFORE], members)
  end

  local window, found, points = tonumber(args[1]), {}, 0
  local departed, payloads, had_epoch, had_recent, had_before = { [ROWS] = {}, [ASIDE] = {} }, {}, {}, {}, {}
  for i, member in ipairs(members) do
    local packed, expected, target = tonumber(rows[i] or nil), tonumber(items[3 * i - 1]), tonumber(items[3 * i])
    local epoch = tonumber(epochs[i] or 1)
    local code, detail = NOT_HERE, not key_of[i] and (gone[i] or gone_before[i]) or ''
    if leaving[i] and not packed then
      code, detail = DEPARTED, leaving[i]
    elseif packed and epoch ~= expected then
      code, detail = OTHER_EPOCH, epoch .. ''
    elseif packed and not is_stray(head, member, packed) then
      code, detail = AT_HOME, ''
    elseif packed and (target == head.shard or target >= head.shards) then
      code, detail = MISDIRECTED, ''
    elseif packed then
      code = DEPARTED
      detail = cmsgpack.pack({ PAYLOAD, packed, epoch + 1, target, window, recent[i] or '', before[i] or '',
        key_of[i] == ASIDE and 1 or nil })
      local left = departed[key_of[i]]
      left[#left + 1] = member
      payloads[#payloads + 1] = member
      payloads[#payloads + 1] = detail
      had_epoch[#had_epoch + 1] = epochs[i] and member or nil
      had_recent[#had_recent + 1] = recent[i] and member or nil
      had_before[#had_before + 1] = before[i] and member or nil
      points = points + (key_of[i] == ROWS and points_of(head, packed) or 0)
    end
    found[2 * i - 1], found[2 * i] = code, detail
  end

  write_all('HSET', keys[LEAVING], payloads)
  write_all('ZREM', keys[ROWS], departed[ROWS])
  write_all('ZREM', keys[ASIDE], departed[ASIDE])
  write_all('HDEL', keys[EPOCHS], had_epoch)
  write_all('HDEL', keys[RECENT], had_recent)
  write_all('HDEL', keys[RECENT_BEFORE], had_before)
  count_moves(keys, #payloads / 2, -points)
  touch(keys, head)
  return { head.version, cmsgpack.pack(found) }
end

--[[ The events of a payload as those of a window and of the one before it. A payload of a later window is of a shard
  whose clock is ahead, at the edge of a window: its events are kept as new ones, or a retry would count again. ]]
local function events_at(window, theirs, recent, before)
  if theirs > window then
    return before .. recent, ''
  elseif theirs == window then
    return recent, before
  elseif theirs == window - 1 then
    return '', recent
  end
  return '', ''
end

--[[ Keep the events of members, and drop those of rows that are replaced by ones without any; only members who were here
  may have some. ]]
local function keep_events(key, window, window_ms, members, events, were_here)
  local kept, dropped = {}, {}
  for i, member in ipairs(members) do
    if events[i] ~= '' then
      kept[#kept + 1] = member
      kept[#kept + 1] = events[i]
    elseif were_here[i] then
      dropped[#dropped + 1] = member
    end
  end
  write_all('HDEL', key, dropped)
  write_all('HSET', key, kept)
  if #kept > 0 then
    expire_window(key, window, window_ms)
  end
end

--[[ The epoch of what is known of each member: of the row or mark, of the payload on the way out, or of the tombstone; 0 for
  nothing, nil where a payload cannot be read: it cannot be told then whether it is newer than what arrives. ]]
local function epochs_here(keys, members, key_of, count, leaving)
  local epochs = count > 0 and read_all('HMGET', keys[EPOCHS], members) or NONE
  local gone = read_all('HMGET', keys[GONE], members)
  local gone_before = read_all('HMGET', keys[GONE_BEFORE], members)
  local here = {}
  for i = 1, #members do
    local tomb = gone[i] or gone_before[i]
    local epoch = math.max(key_of[i] and tonumber(epochs[i] or 1) or 0, tomb and (gone_entry(tomb)) or 0)
    if leaving[i] then
      local _, departed = unpack_payload(leaving[i])
      epoch = departed and math.max(epoch, departed)
    end
    here[i] = epoch
  end
  return here
end

--[[ rb1_arrive: no entry, or one of a lower epoch -> LIVE(e+1); otherwise it was there already and nothing changes.
  KEYS  the target shard's
  List  per player: member, payload
  Reply per player code, epoch of what is here now, 1 if the row is a stray
        arrived | already | misdirected (the payload is of another shard or version) ]]
local function rb1_arrive(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local window = tonumber(args[1])
  local members, items = players_named(args[PLAYERS], 2)
  if not members then
    return redis.error_reply('RBFORM two values a player: member, payload')
  end
  local rows, key_of, count = rows_of(keys, members)
  local leaving = read_all('HMGET', keys[LEAVING], members)
  local here = epochs_here(keys, members, key_of, count, leaving)

  local found, points, of_other_part = {}, 0, false
  local came, epochs, left, all_recent, all_before, were_here = {}, {}, {}, {}, {}, {}
  local scores, replaced = { [ROWS] = {}, [ASIDE] = {} }, { [ROWS] = {}, [ASIDE] = {} }
  for i, member in ipairs(members) do
    local packed, epoch, target, theirs, recent, before, hidden = unpack_payload(items[2 * i])
    local code, known, stray = MISDIRECTED, 0, 0
    if epoch and target == head.shard and here[i] then
      local row = tonumber(rows[i] or nil)
      code, known = ALREADY, here[i]
      if epoch > here[i] then
        code, known = ARRIVED, epoch
        local key = hidden and ASIDE or ROWS
        if key_of[i] == ROWS then
          points = points - points_of(head, row)
        end
        if key_of[i] and key_of[i] ~= key then
          local others = replaced[key_of[i]]
          others[#others + 1] = member
        end
        points = points + (key == ROWS and points_of(head, packed) or 0)
        row = packed
        local ranking = scores[key]
        local count = #came + 1
        came[count] = member
        ranking[#ranking + 1] = packed + 0 -- as a number a command gets 17 digits of it
        ranking[#ranking + 1] = member
        epochs[2 * count - 1], epochs[2 * count] = member, epoch + 0
        all_recent[count], all_before[count] = events_at(window, theirs, recent, before)
        were_here[count] = key_of[i]
        left[#left + 1] = leaving[i] and member or nil
        of_other_part = of_other_part or not is_of_part(head, member)
      end
      stray = row and is_stray(head, member, row) and 1 or 0
    end
    found[3 * i - 2], found[3 * i - 1], found[3 * i] = code, known, stray
  end

  for _, key in ipairs({ ROWS, ASIDE }) do
    write_all('ZREM', keys[key], replaced[key])
    write_all('ZADD', keys[key], scores[key])
  end
  write_all('HSET', keys[EPOCHS], epochs)
  write_all('HDEL', keys[LEAVING], left)
  keep_events(keys[RECENT], window, head.recent_ms, came, all_recent, were_here)
  keep_events(keys[RECENT_BEFORE], window - 1, head.recent_ms, came, all_before, were_here)
  count_moves(keys, #came, points)
  if of_other_part then
    comb_again(keys)
  end
  touch(keys, head)
  return { head.version, cmsgpack.pack(found) }
end

--[[ rb1_finish: LEAVING(e+1) -> GONE(e+1, target); any other state stays as it is.
  KEYS  the source shard's
  List  per player: member, epoch
  Reply 1 per player that is now gone, 0 for any other ]]
local function rb1_finish(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local members, items = players_named(args[PLAYERS], 2)
  if not members or not are_whole(items, 2, 2, MOST_EPOCH) then
    return redis.error_reply('RBFORM two values a player: member, epoch')
  end
  local leaving = read_all('HMGET', keys[LEAVING], members)
  local found, finished, tombstones, made = {}, {}, {}, {}
  for i, member in ipairs(members) do
    local gone = 0
    if leaving[i] then
      local _, epoch, target = unpack_payload(leaving[i])
      if epoch and epoch == tonumber(items[2 * i]) then
        gone = 1
        finished[#finished + 1] = member
        tombstones[#tombstones + 1] = member
        tombstones[#tombstones + 1] = pair_text(made, epoch, target)
      end
    end
    found[i] = gone
  end
  write_all('HDEL', keys[LEAVING], finished)
  write_all('HSET', keys[GONE], tombstones)
  if #finished > 0 then
    expire_window(keys[GONE], tonumber(args[2]), GONE_MS)
    count_moves(keys, #finished, 0)
    touch(keys, head)
  end
  return { head.version, cmsgpack.pack(found) }
end

redis.register_function('rb1_depart', rb1_depart)
redis.register_function('rb1_arrive', rb1_arrive)
redis.register_function('rb1_finish', rb1_finish)
