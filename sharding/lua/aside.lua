--[[ Players who are in a shard and not in its ranking. ASIDE is a sorted set beside ROWS: hidden players stand in it with
  their packed score, removed ones with REMOVED_MARK. So whatever reads ROWS, which is every read, sees neither, and pays
  nothing for it; and a member is in one of the two at most.

  A hidden player has a row like any other: submissions count, moves take it along, and to show it again is to move it
  from one set to the other. Of a removed player the mark stays, with epoch and recent events: the directory goes on to be
  true, a match from before the removal is still known when it is reported again, and the next one begins at nothing. ]]

local ASIDE_HEAD = 3

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
  ARGV  recent window, gone window, outbox limit, then per player: member, event, note for the audit
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
  if (#args - ASIDE_HEAD) % 3 ~= 0 or not tonumber(args[3]) then
    return redis.error_reply('RBFORM three arguments a player: member, event, note')
  end
  for at = ASIDE_HEAD + 2, #args, 3 do
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
  local reply, removed, lost = { head.version }, {}, 0
  for at = ASIDE_HEAD + 1, #args, 3 do
    local member, event = args[at], args[at + 1]
    local packed, key = row_of(keys, member)
    local code, detail = IS_REMOVED, ''
    local recent = redis.call('HGET', keys[RECENT], member) or ''
    if not key then
      code, detail = elsewhere(keys, member)
    elseif find_event(recent, event) or find_event(redis.call('HGET', keys[RECENT_BEFORE], member) or '', event) then
      code = DUPLICATE
    elseif packed then
      code, detail = APPLIED, text(packed)
      local points = points_of(head, packed)
      set_aside(keys, key, member)
      redis.call('HSET', keys[RECENT], member, recent .. event)
      removed[#removed + 1] = { member, string.sub(event, 1, EVENT_ID), -points, 0, args[at + 2] }
      lost = lost + (key == ROWS and points or 0)
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  if #removed > 0 then
    expire_window(keys[RECENT], tonumber(args[1]), head.recent_ms)
    redis.call('XADD', keys[OUTBOX], '*', 'e', cmsgpack.pack({ 1, head.now, head.operator, removed }))
    redis.call('HINCRBY', keys[HEAD], 'points', text(-lost))
  else
    touch(keys, head)
  end
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
  local reply, gained = { head.version }, 0
  for at = ASIDE_HEAD + 1, #args, 2 do
    local member, wanted = args[at], args[at + 1] == '1' and ASIDE or ROWS
    local packed, key = row_of(keys, member)
    local code, detail = DUPLICATE, ''
    if not key then
      code, detail = elsewhere(keys, member)
    elseif not packed then
      code = IS_REMOVED
    elseif key ~= wanted then
      code = APPLIED
      redis.call('ZREM', keys[key], member)
      redis.call('ZADD', keys[wanted], text(packed), member)
      gained = gained + (wanted == ROWS and 1 or -1) * points_of(head, packed)
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = detail
  end
  redis.call('HINCRBY', keys[HEAD], 'points', text(gained))
  touch(keys, head)
  return reply
end

redis.register_function('rb1_remove', rb1_remove)
redis.register_function('rb1_hide', rb1_hide)
