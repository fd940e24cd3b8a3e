--[[ What every function shares: the order of keys, the shard's head, packed scores, recent events.

  A shard's ten keys lie in one slot and always come in this order; a function touches no other key. Numbers are
  doubles here and `tostring` keeps 14 digits, so a packed score (up to 2^52) is always written with text().

  Errors start with a word that the client knows (functions.py), have words behind it (the server puts ERR before one that
  stands alone), and mean that nothing was changed:
    RBNOHEAD   the shard has no head: it was never opened, or it was destroyed
    RBNODIR    the partition of the directory has no mark: it was never opened, or it was destroyed
    RBWINDOW   the keys named are those of another time window; the shard's clock follows, in ms
    RBSTATE    the shard's state does not allow this; the state follows
    RBBACKLOG  the outbox is full
    RBFORM     the arguments are not of the function's form ]]

local ROWS, EPOCHS, RECENT, RECENT_BEFORE, LEAVING, GONE, GONE_BEFORE, OUTBOX, HEAD, ASIDE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local SHARD_KEYS = 10
local WINDOWS = 2 -- the first arguments of a call on a shard: recent window, gone window

local SPAN = 4194304            -- 2^22 tie-break units, scores.py
local POINTS_LIMIT = 1073741824 -- 2^30
local EVENT_ID = 8              -- bytes that name an event
local EVENT = 10                -- those and two bytes of its content
local MOST_RECENT = 4096        -- events of one player that one window holds
local MOST_EXACT = 9007199254740992 -- 2^53: whole numbers below it are exact
local MOST_EPOCH = 2147483648   -- 2^31: no player moves so often, and no board has so many shards
local GONE_MS = 86400000        -- a tombstone lives for one to two of these windows
local COMB_BEGUN = '0:-inf:'   -- how far a shard is combed for strays (strays.lua)
local PAYLOAD = 1               -- version of what travels from shard to shard
local REMOVED_MARK = 'inf'      -- stands in ASIDE in the place of a packed score
local OUTBOX_FORMAT = 2

local function text(number)
  return string.format('%.0f', number + 0) -- + 0: there is a -0, and no command takes it
end

--[[ Two whole numbers as `first:second`; `made` keeps what was made so, for the many who go one way under one epoch. ]]
local function pair_text(made, first, second)
  local pairs_of_first = made[first] or {}
  made[first] = pairs_of_first
  local pair = pairs_of_first[second] or string.format('%d:%d', first, second)
  pairs_of_first[second] = pair
  return pair
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

--[[ Whether every so many-th argument, from one on, is a whole number from 0 up to a limit. What is not is refused before
  anything is changed. ]]
local function are_whole(args, first, step, limit)
  for at = first, #args, step do
    local number = tonumber(args[at])
    if not number or number % 1 ~= 0 or number < 0 or number >= limit then
      return false
    end
  end
  return true
end

--[[ A list that travels packed, because an argument or a reply of its own for each of its values costs the server more than
  what is done with it; nil if it is none. ]]
local function unpack_list(packed)
  local fine, list = pcall(cmsgpack.unpack, packed)
  return fine and type(list) == 'table' and list or nil
end

--[[ Whether every so many-th value of a list, from the first on, is a string. ]]
local function are_strings(list, step)
  for at = 1, #list, step do
    if type(list[at]) ~= 'string' then
      return false
    end
  end
  return true
end

--[[ The shard's head as numbers, or an error reply. Its clock does not run back: after a failover to a server whose
  clock is behind it stands still, or the events of a window that has begun would not be looked for any more. ARGV 1 and
  2 are the windows that the keys were named for. ]]
local function look(keys, args)
  if #keys ~= SHARD_KEYS then
    return nil, redis.error_reply('RBFORM a shard has ' .. SHARD_KEYS .. ' keys')
  end
  local field = redis.call('HMGET', keys[HEAD], 'shard', 'low', 'high', 'parts', 'part', 'version', 'state', 'start_ms',
    'unit_ms', 'sign', 'operator', 'recent_ms', 'submissions', 'points', 'shards', 'touched_ms')
  if not field[1] then
    return nil, redis.error_reply('RBNOHEAD it was never opened, or is gone')
  end
  local now = math.max(now_ms(), tonumber(field[16] or 0))
  local recent_ms = tonumber(field[12])
  if tonumber(args[1]) ~= math.floor(now / recent_ms) or tonumber(args[2]) ~= math.floor(now / GONE_MS) then
    return nil, redis.error_reply('RBWINDOW ' .. text(now))
  end
  return {
    shard = tonumber(field[1]), low = tonumber(field[2]), high = tonumber(field[3]),
    parts = tonumber(field[4]), part = tonumber(field[5]), version = tonumber(field[6]), state = field[7],
    start_ms = tonumber(field[8]), unit_ms = tonumber(field[9]), sign = tonumber(field[10]), operator = field[11],
    submissions = tonumber(field[13] or 0), points = tonumber(field[14] or 0), shards = tonumber(field[15] or MOST_EPOCH),
    recent_ms = recent_ms, now = now,
    elapsed = math.min(math.max(math.floor((now - field[8]) / field[9]), 0), SPAN - 1),
  }
end

--[[ A member's row: its packed score, and the key it is in: ROWS, or ASIDE for a hidden player. Who was taken off the
  board has no packed score, and ASIDE; who has no row and no mark, neither. ]]
local function row_of(keys, member)
  local packed = redis.call('ZSCORE', keys[ROWS], member)
  if packed then
    return tonumber(packed), ROWS
  end
  packed = redis.call('ZSCORE', keys[ASIDE], member)
  if packed then
    return packed ~= REMOVED_MARK and tonumber(packed) or nil, ASIDE
  end
  return nil, nil
end

local function points_of(head, packed)
  return head.sign * (packed - packed % SPAN) / SPAN
end

--[[ Which part of a range split by player hash a member belongs to (shard_map.py). ]]
local function part_of(member, parts)
  return math.floor(tonumber(string.sub(redis.sha1hex(member), 1, 4), 16)) % parts
end

local function is_of_part(head, member)
  return head.parts == 1 or part_of(member, head.parts) == head.part
end

local function is_stray(head, member, packed)
  return packed < head.low or packed >= head.high or not is_of_part(head, member)
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

--[[ Where an event id stands in a string of events: its position, or nil. Matches lie on multiples of EVENT. ]]
local function find_event(events, id)
  local at = string.find(events, id, 1, true)
  while at and (at - 1) % EVENT ~= 0 do
    at = string.find(events, id, at + 1, true)
  end
  return at
end

--[[ Write down what was done, for the audit (outbox.py reads it):
    s  msgpack of what was asked for in one flat list: member, value, event, member, ...
    n  msgpack of a note for each of them
    r  msgpack of the format, the clock in ms, the operator, then for each the points after it, or false: not applied ]]
local function outbox_results(head)
  return { OUTBOX_FORMAT, head.now, head.operator }
end

local function write_down(keys, asked, notes, results)
  redis.call('XADD', keys[OUTBOX], '*', 's', asked, 'n', notes, 'r', cmsgpack.pack(results))
end

--[[ A WAIT covers what its own connection wrote. A call that wrote nothing, but whose answer rests on what somebody
  else wrote here, writes this: replication is one ordered stream, so whoever waits for this has that too. A call that
  wrote to a key of a time window writes it as well: it is what keeps the clock from running back over those. ]]
local function touch(keys, head)
  redis.call('HSET', keys[HEAD], 'touched_ms', head.now)
end

--[[ Entries of a windowed key live until the window after theirs has passed. ]]
local function expire_window(key, window, window_ms)
  redis.call('PEXPIREAT', key, text((window + 2) * window_ms))
end

local function gone_entry(entry)
  local epoch, target = string.match(entry, '^(%d+):(%d+)$')
  return tonumber(epoch), tonumber(target)
end
