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

--[[ The submissions, or nil if they are not of the form. ]]
local function unpack_submissions(packed)
  local items = unpack_list(packed)
  local count = items and #items / ITEM or 0
  if count < 1 or count > MOST_TOGETHER or count ~= math.floor(count) then
    return nil
  end
  for at = 1, #items, ITEM do
    local member, value, event = items[at], items[at + 1], items[at + 2]
    if type(member) ~= 'string' or type(value) ~= 'number' or value ~= math.floor(value)
      or type(event) ~= 'string' or #event ~= EVENT then
      return nil
    end
  end
  return items, count
end

--[[ What the shard knows of each distinct member, as columns: what stands under one number in all of them is about one
  player. A table per player would cost more than the reading.
    members, number_of   each way
    packed               false where there is no row here; follows what is applied
    recent, before       events remembered, false for none; `fresh`: those that this call applies
    hidden, removed      whether the row is a hidden player's, and whether there is the mark of a removed one instead
    leaving, gone        of members that have no row
    points, moved        after what is applied, and whether the row changes
  and `of_other_part`: whether a row was made for whom the range's other parts are, by somebody with an old map ]]
local function players_here(keys, items)
  local members, number_of = {}, {}
  for at = 1, #items, ITEM do
    local member = items[at]
    if not number_of[member] then
      members[#members + 1] = member
      number_of[member] = #members
    end
  end
  local packed = redis.call('ZMSCORE', keys[ROWS], unpack(members))
  local here = {
    members = members, number_of = number_of, packed = packed,
    recent = redis.call('HMGET', keys[RECENT], unpack(members)),
    before = redis.call('HMGET', keys[RECENT_BEFORE], unpack(members)),
    fresh = {}, hidden = {}, removed = {}, leaving = {}, gone = {}, points = {}, moved = {}, gained = 0,
  }
  here.remembered = { here.recent, here.before, here.fresh }
  local absent = {}
  for number, member in ipairs(members) do
    if packed[number] then
      packed[number] = tonumber(packed[number])
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
      local number = number_of[member]
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

--[[ The event that a player is remembered with under the same id: the event itself, another of that id, or nil. ]]
local function event_known(here, player, event)
  for _, column in ipairs(here.remembered) do
    local events = column[player]
    local at = events and find_event(events, event)
    if at then
      return string.sub(events, at, at + EVENT - 1)
    end
  end
end

--[[ One submission: code and detail. Changes only `here`. ]]
local function apply_one(head, here, player, value, event, may, settles)
  local packed = here.packed[player]
  local removed = not packed and here.removed[player]
  if not packed and not removed then
    if here.leaving[player] then
      return IS_LEAVING, here.leaving[player]
    elseif here.gone[player] then
      return IS_GONE, here.gone[player]
    elseif not MAY_CREATE[may] then
      return UNKNOWN, ''
    end
  end
  local known = event_known(here, player, event)
  if known == event then
    return DUPLICATE, packed or ''
  elseif known then
    return REFUSED, 'match'
  elseif removed and settles then
    return DUPLICATE, ''
  elseif removed and not MAY_BEGIN_ANEW[may] then
    return IS_REMOVED, ''
  end
  local recent, fresh = here.recent[player] or '', here.fresh[player] or ''
  if #recent + #fresh >= MOST_RECENT * EVENT then
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
    here.moved[player] = true
  end
  here.points[player] = after
  here.fresh[player] = fresh .. event
  if not here.hidden[player] then
    here.gained = here.gained + after - (points or 0)
  end
  return APPLIED, packed
end

--[[ Write what was applied: rows, remembered events, the outbox entry, the head's counters. ]]
local function write(keys, args, head, here, applied, results)
  local rows, aside, shown, recent = {}, {}, {}, {}
  for player, member in ipairs(here.members) do
    local fresh = here.fresh[player]
    if fresh then
      recent[#recent + 1] = member
      recent[#recent + 1] = (here.recent[player] or '') .. fresh
      if here.moved[player] then
        local ranking = here.hidden[player] and aside or rows
        ranking[#ranking + 1] = here.packed[player]
        ranking[#ranking + 1] = member
        if here.removed[player] and ranking == rows then
          shown[#shown + 1] = member
        end
      end
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
  local items, count = unpack_submissions(args[6])
  local permissions = args[5]
  if not items or #args ~= 7 or not tonumber(args[3]) or (permissions ~= '' and #permissions ~= count) then
    return redis.error_reply('RBFORM three values a submission')
  end
  if head.state ~= 'open' and not (head.state == 'frozen' and args[4] == '2') then
    return redis.error_reply('RBSTATE ' .. head.state)
  end
  if redis.call('XLEN', keys[OUTBOX]) >= tonumber(args[3]) then
    return redis.error_reply('RBBACKLOG the outbox is full')
  end
  local here = players_here(keys, items)
  local reply, results, applied = {}, outbox_results(head), 0
  local results_head = #results
  for number = 1, count do
    local at, slot = (number - 1) * ITEM, (number - 1) * 4
    local player = here.number_of[items[at + 1]]
    local may = permissions ~= '' and string.sub(permissions, number, number)
    local code, detail = apply_one(head, here, player, items[at + 2], items[at + 3], may, args[4] == '2')
    results[results_head + number] = code == APPLIED and here.points[player]
    applied = applied + (code == APPLIED and 1 or 0)
    reply[slot + 1], reply[slot + 2], reply[slot + 3], reply[slot + 4] = code, detail, -1, 0
  end
  if applied > 0 then
    write(keys, args, head, here, applied, results)
  else
    touch(keys, head)
  end

  local places = {}
  for number = 1, count do
    local slot, member = (number - 1) * 4, items[(number - 1) * ITEM + 1]
    local player = here.number_of[member]
    if reply[slot + 1] <= DUPLICATE and here.packed[player] then
      if args[4] == '1' and not here.hidden[player] then
        places[player] = places[player] or redis.call('ZRANK', keys[ROWS], member)
        reply[slot + 3] = places[player]
      end
      if is_stray(head, member, here.packed[player]) then
        reply[slot + 4] = 1
      end
    end
  end
  return { head.now, head.version, cmsgpack.pack(reply) }
end

redis.register_function('rb1_apply', rb1_apply)
