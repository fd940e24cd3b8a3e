--[[ rb1_apply: apply submissions to one shard; all of them or none are seen by anybody in between.
  KEYS  the shard's
  ARGV  recent window, gone window, outbox limit, 1 to tell places or 2 to settle, then per submission:
        member, value, event, what this caller may do, note for the audit
        may: 0 nothing | 1 create the row | 2 begin anew where the player was removed | 3, 4 the same, and hidden
  Reply clock in ms, version of the map, then four per submission: code, detail, place, 1 if the row is now a stray
        code       detail                     place (0-based, or -1)
        applied    packed score
        duplicate  packed score, or ''        this event was applied before; nothing changed ('': there is no row now)
        leaving    payload of the move        finish the move, then ask its target
        gone       epoch:target               ask there
        unknown    ''                         the player has no row here and this caller may not create one
        refused    points | recent | match    too large | too many events in a window | same match, other content
        removed    ''                         the player was removed and this caller may not begin anew
  To settle is to take back what was applied twice, which has to go on while the shard is frozen. Where the player was
  removed there is nothing left to take back (`duplicate`).
  Cost  O(n log N) for n submissions. The outbox entry is written in the same call: {1, clock, operator, applied}. ]]

local APPLIED, DUPLICATE, IS_LEAVING, IS_GONE, UNKNOWN, REFUSED, IS_HIDDEN, IS_REMOVED = 1, 2, 3, 4, 5, 6, 7, 8
local MAY_CREATE, MAY_BEGIN_ANEW = { ['1'] = true, ['3'] = true }, { ['2'] = true, ['4'] = true }
local MAY_HIDDEN = { ['3'] = true, ['4'] = true }
local APPLY_HEAD, APPLY_ITEM = 4, 5
local MOST_TOGETHER = 2000 -- submissions in one call; unpack() takes less than 8,000 values

--[[ What the shard knows of each distinct member, in the order of their first appearance. ]]
local function players_here(keys, args)
  local members, states = {}, {}
  for at = APPLY_HEAD + 1, #args, APPLY_ITEM do
    local member = args[at]
    if not states[member] then
      members[#members + 1] = member
      states[member] = {}
    end
  end
  local packed = redis.call('ZMSCORE', keys[ROWS], unpack(members))
  local recent = redis.call('HMGET', keys[RECENT], unpack(members))
  local before = redis.call('HMGET', keys[RECENT_BEFORE], unpack(members))
  local absent = {}
  for i, member in ipairs(members) do
    local state = states[member]
    state.recent = recent[i] or ''
    state.before = before[i] or ''
    if packed[i] then
      state.packed = tonumber(packed[i])
    else
      absent[#absent + 1] = member
    end
  end
  if #absent > 0 then
    local aside = redis.call('ZMSCORE', keys[ASIDE], unpack(absent))
    local leaving = redis.call('HMGET', keys[LEAVING], unpack(absent))
    local gone = redis.call('HMGET', keys[GONE], unpack(absent))
    local gone_before = redis.call('HMGET', keys[GONE_BEFORE], unpack(absent))
    for i, member in ipairs(absent) do
      local state = states[member]
      state.removed = aside[i] == REMOVED_MARK
      state.hidden = aside[i] and not state.removed
      state.packed = state.hidden and tonumber(aside[i]) or nil
      state.leaving = leaving[i]
      state.gone = gone[i] or gone_before[i]
    end
  end
  return members, states
end

local function new_points(head, points, value)
  if not points or head.operator == 'set' then
    return value
  elseif head.operator == 'add' then
    return points + value
  end
  return head.sign * value < head.sign * points and value or points
end

--[[ One submission: code and detail. Changes only `state`. ]]
local function apply_one(head, state, value, event, may, settles)
  if not state.packed and not state.removed then
    if state.leaving then
      return IS_LEAVING, state.leaving
    elseif state.gone then
      return IS_GONE, state.gone
    elseif not MAY_CREATE[may] then
      return UNKNOWN, ''
    end
  end
  local points = state.packed and points_of(head, state.packed)
  local events = state.recent
  local at = find_event(events, event)
  if not at then
    events = state.before
    at = find_event(events, event)
  end
  if at then
    if string.sub(events, at, at + EVENT - 1) ~= event then
      return REFUSED, 'match'
    end
    return DUPLICATE, state.packed and text(state.packed) or ''
  end
  if not state.packed and state.removed and (settles or not MAY_BEGIN_ANEW[may]) then
    return settles and DUPLICATE or IS_REMOVED, ''
  end
  if #state.recent >= MOST_RECENT * EVENT then
    return REFUSED, 'recent'
  end
  local after = new_points(head, points, value)
  if not (after > -POINTS_LIMIT and after < POINTS_LIMIT) then
    return REFUSED, 'points'
  end
  if not points then
    state.hidden = MAY_HIDDEN[may]
  end
  if after ~= points then
    state.packed = head.sign * after * SPAN + head.elapsed
    state.moved = true
  end
  state.points, state.gain = after, state.hidden and 0 or after - (points or 0)
  state.recent = state.recent .. event
  state.applied = true
  return APPLIED, text(state.packed)
end

local function rb1_apply(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local count = (#args - APPLY_HEAD) / APPLY_ITEM
  if count <= 0 or count > MOST_TOGETHER or count ~= math.floor(count) or not tonumber(args[3]) then
    return redis.error_reply('RBFORM five arguments a submission')
  end
  if head.state ~= 'open' and not (head.state == 'frozen' and args[4] == '2') then
    return redis.error_reply('RBSTATE ' .. head.state)
  end
  if redis.call('XLEN', keys[OUTBOX]) >= tonumber(args[3]) then
    return redis.error_reply('RBBACKLOG the outbox is full')
  end
  local members, states = players_here(keys, args)
  local reply, applied, gained = { head.now, head.version }, {}, 0
  for at = APPLY_HEAD + 1, #args, APPLY_ITEM do
    local member, value, event = args[at], tonumber(args[at + 1]), args[at + 2]
    if not value or value ~= math.floor(value) or #event ~= EVENT then
      return redis.error_reply('RBFORM submission ' .. (at - APPLY_HEAD - 1) / APPLY_ITEM)
    end
    local code, detail = apply_one(head, states[member], value, event, args[at + 3], args[4] == '2')
    if code == APPLIED then
      local state = states[member]
      applied[#applied + 1] = { member, string.sub(event, 1, EVENT_ID), value, state.points, args[at + 4] }
      gained = gained + state.gain
    end
    local slot = #reply
    reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] = code, detail, -1, 0
  end

  local rows, aside, shown, recent = {}, {}, {}, {}
  for _, member in ipairs(members) do
    local state = states[member]
    if state.moved then
      local ranking = state.hidden and aside or rows
      ranking[#ranking + 1] = text(state.packed)
      ranking[#ranking + 1] = member
      if state.removed and not state.hidden then
        shown[#shown + 1] = member
      end
    end
    if state.applied then
      recent[#recent + 1] = member
      recent[#recent + 1] = state.recent
    end
  end
  if #rows > 0 then
    redis.call('ZADD', keys[ROWS], unpack(rows))
  end
  if #aside > 0 then
    redis.call('ZADD', keys[ASIDE], unpack(aside))
  end
  if #shown > 0 then
    redis.call('ZREM', keys[ASIDE], unpack(shown))
  end
  if #applied > 0 then
    local window = tonumber(args[1])
    local is_new = redis.call('EXISTS', keys[RECENT]) == 0
    redis.call('HSET', keys[RECENT], unpack(recent))
    if is_new then
      expire_window(keys[RECENT], window, head.recent_ms)
    end
    redis.call('XADD', keys[OUTBOX], '*', 'e', cmsgpack.pack({ 1, head.now, head.operator, applied }))
    redis.call('HINCRBY', keys[HEAD], 'submissions', #applied)
    redis.call('HINCRBY', keys[HEAD], 'points', text(gained))
  else
    touch(keys, head)
  end

  local tell_places, slot = args[4] == '1', 2
  for at = APPLY_HEAD + 1, #args, APPLY_ITEM do
    local state = states[args[at]]
    if reply[slot + 1] <= DUPLICATE and state.packed then
      if tell_places and not state.hidden then
        state.place = state.place or redis.call('ZRANK', keys[ROWS], args[at])
        reply[slot + 3] = state.place
      end
      reply[slot + 4] = is_stray(head, args[at], state.packed) and 1 or 0
    end
    slot = slot + 4
  end
  return reply
end

redis.register_function('rb1_apply', rb1_apply)
