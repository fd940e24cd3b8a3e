--[[ rb1_apply: apply submissions to one shard; all of them or none are seen by anybody in between.
  KEYS  the shard's
  ARGV  recent window, gone window, outbox limit, 1 to tell places or 2 to settle,
        what the caller may do for players without a row: '' nothing, or a character per submission: 0 nothing,
        1 create the row, 2 begin anew where the player was removed; 3, 4 the same, and the row is hidden
        msgpack of the submissions in one flat list: member, value, event, member, ...
        msgpack of the notes for the audit, one per submission: never unpacked here
  Reply clock in ms, version of the map, msgpack of one flat list with four per submission:
        code, detail, place, 1 if the row is now a stray
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
  Cost  O(n log N) for n submissions. The outbox entry is written in the same call; submissions and notes go into it as
  they came. ]]

local APPLIED, DUPLICATE, IS_LEAVING, IS_GONE, UNKNOWN, REFUSED, IS_HIDDEN, IS_REMOVED = 1, 2, 3, 4, 5, 6, 7, 8
local MAY_CREATE, MAY_BEGIN_ANEW = { ['1'] = true, ['3'] = true }, { ['2'] = true, ['4'] = true }
local MAY_HIDDEN = { ['3'] = true, ['4'] = true }
local ITEM = 3             -- values per submission
local MOST_TOGETHER = 2000 -- submissions in one call; unpack() takes less than 8,000 values

--[[ How many submissions there are, and they as columns; nil if they are not of the form. ]]
local function unpack_submissions(packed)
  local items = unpack_list(packed)
  local count = items and #items / ITEM or 0
  if count < 1 or count > MOST_TOGETHER or count ~= math.floor(count) then
    return nil
  end
  local type = type
  local members, values, events = {}, {}, {}
  for i = 1, count do
    local at = i * ITEM
    local member, value, event = items[at - 2], items[at - 1], items[at]
    if type(member) ~= 'string' or type(value) ~= 'number' or value % 1 ~= 0
      or type(event) ~= 'string' or #event ~= EVENT then
      return nil
    end
    members[i], values[i], events[i] = member, value, event
  end
  return count, members, values, events
end

--[[ What the shard knows of the players, as columns: what stands under one number in all of them is about one player,
  and that is the number of the player's first submission. A table per player would cost more than the reading.
    members              of all submissions
    first                member → number
    packed               false where there is no row here; follows what is applied
    recent, before       events remembered, false for none; `recent` follows what is applied
    applied              whether anything is
    hidden, removed      whether the row is a hidden player's, and whether there is the mark of a removed one instead
    leaving, gone        of members that have no row
  and `of_other_part`: whether a row was made for whom the range's other parts are, by somebody with an old map ]]
local function players_here(keys, members)
  local first = {}
  local packed = redis.call('ZMSCORE', keys[ROWS], unpack(members))
  local here = {
    first = first, members = members, packed = packed,
    recent = redis.call('HMGET', keys[RECENT], unpack(members)),
    before = redis.call('HMGET', keys[RECENT_BEFORE], unpack(members)),
    applied = {}, hidden = {}, removed = {}, leaving = {}, gone = {}, gained = 0,
  }
  local absent, numbers, tonumber = {}, {}, tonumber
  for number = 1, #members do
    local member = members[number]
    if not first[member] then
      first[member] = number
      if packed[number] then
        packed[number] = tonumber(packed[number])
      else
        absent[#absent + 1] = member
        numbers[#numbers + 1] = number
      end
    end
  end
  if #absent > 0 then
    local aside = redis.call('ZMSCORE', keys[ASIDE], unpack(absent))
    local leaving = redis.call('HMGET', keys[LEAVING], unpack(absent))
    local gone = redis.call('HMGET', keys[GONE], unpack(absent))
    local gone_before = redis.call('HMGET', keys[GONE_BEFORE], unpack(absent))
    for i, number in ipairs(numbers) do
      here.leaving[number] = leaving[i]
      here.gone[number] = gone[i] or gone_before[i]
      if aside[i] == REMOVED_MARK then
        here.removed[number] = true
      elseif aside[i] then
        here.hidden[number] = true
        packed[number] = tonumber(aside[i])
      end
    end
  end
  return here
end

local function new_points(head, points, value)
  if not points or head.operator == 'set' then
    return value
  elseif head.operator == 'add' then
    return points + value
  end
  return head.sign * value < head.sign * points and value or points
end

--[[ Why a player without a row has no submission applied: code and detail; nil where there may be a row. ]]
local function why_not(here, player, may)
  if here.removed[player] then
    return nil
  elseif here.leaving[player] then
    return IS_LEAVING, here.leaving[player]
  elseif here.gone[player] then
    return IS_GONE, here.gone[player]
  elseif not MAY_CREATE[may] then
    return UNKNOWN, ''
  end
end

--[[ The event that is remembered under the id of this one: itself, another of that id, or nil. ]]
local function event_known(recent, before, event)
  local id = string.sub(event, 1, EVENT_ID)
  local events, at = recent, recent and find_event(recent, id)
  if not at then
    events, at = before, before and find_event(before, id)
  end
  return at and string.sub(events, at, at + EVENT - 1)
end

--[[ One submission: code, detail, and the player's points if it is applied. Changes only `here`. ]]
local function apply_one(head, here, player, value, event, may, settles)
  local packed, removed = here.packed[player], nil
  if not packed then
    local code, detail = why_not(here, player, may)
    if code then
      return code, detail
    end
    removed = here.removed[player]
  end
  local recent = here.recent[player]
  local known = event_known(recent, here.before[player], event)
  if known == event then
    return DUPLICATE, packed or ''
  elseif known then
    return REFUSED, 'match'
  elseif removed and settles then
    return DUPLICATE, ''
  elseif removed and not MAY_BEGIN_ANEW[may] then
    return IS_REMOVED, ''
  end
  recent = recent or ''
  if #recent >= MOST_RECENT * EVENT then
    return REFUSED, 'recent'
  end
  local points = packed and points_of(head, packed)
  local after = new_points(head, points, value)
  if not (after > -POINTS_LIMIT and after < POINTS_LIMIT) then
    return REFUSED, 'points'
  end
  if not points then
    here.hidden[player] = MAY_HIDDEN[may]
    here.of_other_part = here.of_other_part or not is_of_part(head, here.members[player])
  end
  if after ~= points then
    packed = head.sign * after * SPAN + head.elapsed
    here.packed[player] = packed
  end
  here.applied[player] = true
  here.recent[player] = recent .. event
  if not here.hidden[player] then
    here.gained = here.gained + after - (points or 0)
  end
  return APPLIED, packed, after
end

--[[ Write what was applied: rows, remembered events, the outbox entry, the head's counters. ]]
local function write(keys, args, head, here, applied, results)
  local rows, aside, shown, recent = {}, {}, {}, {}
  local kept, ranked = 0, 0
  for player, member in ipairs(here.members) do
    if here.applied[player] then
      recent[kept + 1], recent[kept + 2] = member, here.recent[player]
      kept = kept + 2
      if here.hidden[player] then
        aside[#aside + 1] = here.packed[player]
        aside[#aside + 1] = member
      else
        rows[ranked + 1], rows[ranked + 2] = here.packed[player], member
        ranked = ranked + 2
        if here.removed[player] then
          shown[#shown + 1] = member
        end
      end
    end
  end
  if ranked > 0 then
    redis.call('ZADD', keys[ROWS], unpack(rows))
  end
  if #aside > 0 then
    redis.call('ZADD', keys[ASIDE], unpack(aside))
  end
  if #shown > 0 then
    redis.call('ZREM', keys[ASIDE], unpack(shown))
  end
  local new = redis.call('HSET', keys[RECENT], unpack(recent))
  if new > 0 and redis.call('HLEN', keys[RECENT]) == new then -- the window's first
    expire_window(keys[RECENT], tonumber(args[1]), head.recent_ms)
  end
  if here.of_other_part then
    comb_again(keys) -- its writer moves it home, if it lives
  end
  write_down(keys, args[6], args[7], results)
  redis.call('HSET', keys[HEAD], 'submissions', head.submissions + applied, 'points', head.points + here.gained,
    'touched_ms', head.now)
end

local function rb1_apply(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local count, members, values, events = unpack_submissions(args[6])
  local permissions = args[5]
  if not count or #args ~= 7 or not tonumber(args[3]) or (permissions ~= '' and #permissions ~= count) then
    return redis.error_reply('RBFORM three values a submission')
  end
  if head.state ~= 'open' and not (head.state == 'frozen' and args[4] == '2') then
    return redis.error_reply('RBSTATE ' .. head.state)
  end
  if redis.call('XLEN', keys[OUTBOX]) >= tonumber(args[3]) then
    return redis.error_reply('RBBACKLOG the outbox is full')
  end
  local here = players_here(keys, members)
  local first, settles, may = here.first, args[4] == '2', false
  local reply, results, applied = {}, outbox_results(head), 0
  local results_head = #results
  for number = 1, count do
    local slot = number * 4
    if permissions ~= '' then
      may = string.sub(permissions, number, number)
    end
    local player = first[members[number]]
    local code, detail, after = apply_one(head, here, player, values[number], events[number], may, settles)
    results[results_head + number] = after or false
    applied = applied + (after and 1 or 0)
    reply[slot - 3], reply[slot - 2], reply[slot - 1], reply[slot] = code, detail, -1, 0
  end
  if applied > 0 then
    write(keys, args, head, here, applied, results)
  else
    touch(keys, head)
  end

  local tells, places = args[4] == '1', {}
  for number = 1, count do
    local slot, member = number * 4, members[number]
    local player = first[member]
    local packed = here.packed[player]
    if packed and reply[slot - 3] <= DUPLICATE then
      if tells and not here.hidden[player] then
        places[player] = places[player] or redis.call('ZRANK', keys[ROWS], member)
        reply[slot - 1] = places[player]
      end
      if is_stray(head, member, packed) then
        reply[slot] = 1
      end
    end
  end
  return { head.now, head.version, cmsgpack.pack(reply) }
end

redis.register_function('rb1_apply', rb1_apply)
