--[[ What happens to a shard besides play: it is frozen, loaded from the audit, corrected, and in the end it expires
  (lifecycle.py says when). Only a load asks for a state; the others may be made in any. ]]

local REPAIR_ITEM, LOAD_ITEM = 5, 6

--[[ rb1_state: set the state of a shard, and fields of its head together with it.
  KEYS  head
  ARGV  state, then field, value, ...
  Reply the state before; nil, and nothing was changed, if the shard has no head ]]
local function rb1_state(keys, args)
  if redis.call('HEXISTS', keys[1], 'shard') == 0 then
    return false
  end
  local before = redis.call('HGET', keys[1], 'state')
  redis.call('HSET', keys[1], 'state', unpack(args))
  return before
end

--[[ rb1_load: put rows into a shard that is being rebuilt, as they were. May be repeated.
  KEYS  the shard's
  ARGV  recent window, gone window, the recent window that the events are of, msgpack of the rows in one flat list: member,
        packed score ('' is the mark of a player who was removed), epoch, events of that window, events of the window before
        it, 1 for a hidden one, member, ...
  Reply rows in the shard afterwards. RBSTATE unless the shard's state is `rebuilding`. ]]
local function rb1_load(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if head.state ~= 'rebuilding' then
    return redis.error_reply('RBSTATE ' .. head.state)
  end
  local fine, items = pcall(cmsgpack.unpack, args[4])
  if not fine or #args ~= 4 or type(items) ~= 'table' or #items == 0 or #items % LOAD_ITEM ~= 0 then
    return redis.error_reply('RBFORM six values a row')
  end
  local current, loaded = tonumber(args[1]), tonumber(args[3])
  local rows, aside, epochs, events = {}, {}, {}, { [current] = {}, [current - 1] = {} }
  for at = 1, #items, LOAD_ITEM do
    local member = items[at]
    local is_mark = items[at + 1] == ''
    local ranking = (is_mark or items[at + 5] == 1) and aside or rows
    ranking[#ranking + 1] = is_mark and REMOVED_MARK or items[at + 1]
    ranking[#ranking + 1] = member
    if items[at + 2] ~= 1 then
      epochs[#epochs + 1] = member
      epochs[#epochs + 1] = items[at + 2]
    end
    for back = 0, 1 do
      local kept = events[loaded - back] -- none for a window that has passed meanwhile
      if kept and items[at + 3 + back] ~= '' then
        kept[#kept + 1] = member
        kept[#kept + 1] = items[at + 3 + back]
      end
    end
  end
  if #rows > 0 then
    redis.call('ZADD', keys[ROWS], unpack(rows))
  end
  if #aside > 0 then
    redis.call('ZADD', keys[ASIDE], unpack(aside))
  end
  count_moves(keys, (#rows + #aside) / 2, 0)
  touch(keys, head)
  if #epochs > 0 then
    redis.call('HSET', keys[EPOCHS], unpack(epochs))
  end
  for back = 0, 1 do
    local kept = events[current - back]
    if #kept > 0 then
      redis.call('HSET', keys[RECENT + back], unpack(kept))
      expire_window(keys[RECENT + back], current - back, head.recent_ms)
    end
  end
  return redis.call('ZCARD', keys[ROWS])
end

--[[ rb1_repair: set rows to what the audit says, each only if it still is what the caller saw. An outbox entry records it.
  KEYS  the shard's
  ARGV  recent window, gone window, msgpack of a note per player, then per player: member, packed score seen, packed score
        wanted ('' is: no row), epoch of a row that is made, event
        A row that is taken away leaves the mark of a removed player: directory and tombstones go on to be true.
  Reply per player: 1 if it was set, 2 if it was as wanted already, 0 if it was something else than what was seen ]]
local function rb1_repair(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - 3) % REPAIR_ITEM ~= 0 then
    return redis.error_reply('RBFORM five arguments a player')
  end
  local reply, asked, results, gained = {}, {}, outbox_results(head), 0
  local wrote = 0
  for at = 4, #args, REPAIR_ITEM do
    local member, seen, wanted, epoch = args[at], args[at + 1], args[at + 2], tonumber(args[at + 3])
    local packed, key = row_of(keys, member)
    local as_seen = packed and text(packed) == seen
    if not packed and seen == '' then
      local gone = not key and tombstone(keys, member)
      as_seen = redis.call('HEXISTS', keys[LEAVING], member) == 0 and not (gone and gone_entry(gone) >= epoch)
    end
    local as_wanted = (packed and text(packed) or '') == wanted
    reply[#reply + 1] = as_wanted and 2 or as_seen and 1 or 0
    local gain, points = 0, false
    if as_seen and not as_wanted then
      local before = packed and points_of(head, packed) or 0
      local after = 0
      if wanted == '' then
        set_aside(keys, key, member)
        redis.call('HDEL', keys[RECENT], member)
        redis.call('HDEL', keys[RECENT_BEFORE], member)
      else
        after = points_of(head, tonumber(wanted))
        if not packed then
          redis.call('ZREM', keys[ASIDE], member)
          if not key and epoch > 1 then
            redis.call('HSET', keys[EPOCHS], member, text(epoch))
          end
        end
        redis.call('ZADD', keys[packed and key or ROWS], wanted, member)
      end
      if not packed or key == ROWS then
        gained = gained + after - before
      end
      gain, points = after - before, after
      wrote = wrote + 1
    end
    local slot = #asked
    asked[slot + 1], asked[slot + 2], asked[slot + 3] = member, gain, args[at + 4]
    results[#results + 1] = points
  end
  if wrote > 0 then
    write_down(keys, cmsgpack.pack(asked), args[3], results)
    count_moves(keys, wrote, gained)
  end
  touch(keys, head)
  return reply
end

--[[ rb1_expire: let keys expire at a moment.
  KEYS  any of one slot
  ARGV  the moment, in ms since 1970
  Reply how many of them exist ]]
local function rb1_expire(keys, args)
  local count = 0
  for _, key in ipairs(keys) do
    count = count + redis.call('PEXPIREAT', key, args[1])
  end
  return count
end

redis.register_function('rb1_state', rb1_state)
redis.register_function('rb1_load', rb1_load)
redis.register_function('rb1_repair', rb1_repair)
redis.register_function('rb1_expire', rb1_expire)
