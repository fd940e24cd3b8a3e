--[[ Players who are in a shard and not in its ranking. ASIDE is a sorted set beside ROWS: hidden players stand in it with
  their packed score, removed ones with REMOVED_MARK. So whatever reads ROWS, which is every read, sees neither, and pays
  nothing for it; and a member is in one of the two at most.

  A hidden player has a row like any other: submissions count, moves take it along, and to show it again is to move it
  from one set to the other. Of a removed player the mark stays, with epoch and recent events: the directory goes on to be
  true, a match from before the removal is still known when it is reported again, and the next one begins at nothing. ]]

local ASIDE_HEAD, REMOVE_HEAD = 3, 4

--[[ Leaves of a row its mark. ]]
local function set_aside(keys, key, member)
  redis.call('ZREM', keys[key], member)
  redis.call('ZADD', keys[ASIDE], REMOVED_MARK, member)
end

--[[ Where a member is who has neither row nor mark here: a code, and what goes with it. ]]
local function elsewhere(keys, member)
  local payload = redis.call('HGET', keys[LEAVING], member)
  if payload then
    return IS_LEAVING, payload
  end
  local gone = tombstone(keys, member)
  return gone and IS_GONE or UNKNOWN, gone or ''
end

--[[ rb1_remove: take players off the board, each by an event of its own, which the audit keeps.
  KEYS  the shard's
  ARGV  recent window, gone window, outbox limit, msgpack of a note per player for the audit, then per player: member,
        event
  Reply version of the map, then per player code and detail:
        applied    packed score the player had
        duplicate  ''             this very removal was made before, whatever has come since
        removed    ''             the player is off the board already
        leaving, gone, unknown    as rb1_apply has them ]]
local function rb1_remove(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if #args < REMOVE_HEAD or (#args - REMOVE_HEAD) % 2 ~= 0 or not tonumber(args[3]) then
    return redis.error_reply('RBFORM two arguments a player: member, event')
  end
  for at = REMOVE_HEAD + 2, #args, 2 do
    if #args[at] ~= EVENT then
      return redis.error_reply('RBFORM an event has ' .. EVENT .. ' bytes')
    end
  end
  if head.state ~= 'open' then
    return redis.error_reply('RBSTATE ' .. head.state)
  end
  if redis.call('XLEN', keys[OUTBOX]) >= tonumber(args[3]) then
    return redis.error_reply('RBBACKLOG the outbox is full')
  end
  local reply, asked, results, lost = { head.version }, {}, outbox_results(head), 0
  local wrote = 0
  for at = REMOVE_HEAD + 1, #args, 2 do
    local member, event = args[at], args[at + 1]
    local packed, key = row_of(keys, member)
    local code, detail = IS_REMOVED, ''
    local id = string.sub(event, 1, EVENT_ID)
    local recent = redis.call('HGET', keys[RECENT], member) or ''
    local points, left = 0, false
    if not key then
      code, detail = elsewhere(keys, member)
    elseif find_event(recent, id) or find_event(redis.call('HGET', keys[RECENT_BEFORE], member) or '', id) then
      code = DUPLICATE
    elseif packed then
      code, detail = APPLIED, text(packed)
      points, left, wrote = points_of(head, packed), 0, wrote + 1
      set_aside(keys, key, member)
      redis.call('HSET', keys[RECENT], member, recent .. event)
      lost = lost + (key == ROWS and points or 0)
    end
    local slot = #asked
    asked[slot + 1], asked[slot + 2], asked[slot + 3] = member, -points, event
    results[#results + 1] = left
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  if wrote > 0 then
    expire_window(keys[RECENT], tonumber(args[1]), head.recent_ms)
    write_down(keys, cmsgpack.pack(asked), args[4], results)
    count_moves(keys, wrote, -lost)
  end
  touch(keys, head)
  return reply
end

--[[ rb1_hide: keep players out of the ranking, or show them in it again; in any state but frozen.
  KEYS  the shard's
  ARGV  recent window, gone window, 0, then per player: member, 1 to hide or 0 to show
  Reply version of the map, then per player code and detail:
        applied | duplicate       ''   duplicate: so it is already
        removed                   ''   there is no row that could be hidden
        leaving, gone, unknown    as rb1_apply has them ]]
local function rb1_hide(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - ASIDE_HEAD) % 2 ~= 0 then
    return redis.error_reply('RBFORM two arguments a player')
  end
  if head.state == 'frozen' then
    return redis.error_reply('RBSTATE frozen')
  end
  local reply, changed, gained = { head.version }, 0, 0
  for at = ASIDE_HEAD + 1, #args, 2 do
    local member, wanted = args[at], args[at + 1] == '1' and ASIDE or ROWS
    local packed, key = row_of(keys, member)
    local code, detail = DUPLICATE, ''
    if not key then
      code, detail = elsewhere(keys, member)
    elseif not packed then
      code = IS_REMOVED
    elseif key ~= wanted then
      code, changed = APPLIED, changed + 1
      redis.call('ZREM', keys[key], member)
      redis.call('ZADD', keys[wanted], text(packed), member)
      gained = gained + (wanted == ROWS and 1 or -1) * points_of(head, packed)
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  count_moves(keys, changed, gained)
  touch(keys, head)
  return reply
end

redis.register_function('rb1_remove', rb1_remove)
redis.register_function('rb1_hide', rb1_hide)
