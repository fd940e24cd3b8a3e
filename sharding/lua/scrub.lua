--[[ What the scrub asks and does (scrub.py): it looks at rows in turn, makes sure of what it has seen, and takes away
  rows that are not their players' any more. ]]

--[[ rb1_scan: some rows of a shard, and where to go on. Rows that stay are seen at least once in a full turn, those of
  hidden players and the marks of removed ones in its second half (cursors that begin with an `a`).
  KEYS  the shard's
  ARGV  recent window, gone window, cursor ('0' to begin), about how many
  Reply the next cursor ('0': that was all), then per row: member, epoch ]]
local function rb1_scan(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local half, cursor = string.match(args[3], '^(a?)(%d+)$')
  local scanned = redis.call('ZSCAN', keys[half == 'a' and ASIDE or ROWS], cursor, 'COUNT', args[4])
  local over = scanned[1] == '0'
  local reply = { half .. scanned[1] }
  if over then
    reply[1] = half == '' and redis.call('EXISTS', keys[ASIDE]) == 1 and 'a0' or '0'
  end
  local members = {}
  for i = 1, #scanned[2], 2 do
    members[#members + 1] = scanned[2][i]
  end
  local epochs = read_all('HMGET', keys[EPOCHS], members)
  for i, member in ipairs(members) do
    reply[2 * i], reply[2 * i + 1] = member, tonumber(epochs[i] or 1)
  end
  return reply
end

--[[ rb1_attest: what a shard knows of players. It writes a touch, so that who waits for a replica may rest on it.
  KEYS  the shard's
  ARGV  recent window, gone window, then per player: member
  Reply per player code (as rb1_find has them; hidden players are live, and `removed` is one of its own), epoch, and
        shard: this one, or where the player is leaving or gone for ]]
local function rb1_attest(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  local reply = {}
  for at = WINDOWS + 1, #args do
    local member = args[at]
    local code, epoch, shard = UNKNOWN, 0, head.shard
    local packed, key = row_of(keys, member)
    if key then
      code, epoch = packed and LIVE or IS_REMOVED, epoch_of_row(keys, member)
    else
      local payload = redis.call('HGET', keys[LEAVING], member)
      local gone = tombstone(keys, member)
      if payload then
        code = IS_LEAVING -- and the epoch of a payload of another version is not known
        local _, its_epoch, target = unpack_payload(payload)
        if target then
          epoch, shard = its_epoch, target
        end
      elseif gone then
        code = IS_GONE
        epoch, shard = gone_entry(gone)
      end
    end
    local slot = #reply
    reply[slot + 1], reply[slot + 2], reply[slot + 3] = code, epoch, shard
  end
  touch(keys, head)
  return reply
end

--[[ rb1_bury: LIVE that the directory shows to be a ghost -> GONE, for where the directory has the player; any other
  state stays as it is, and so does a row whose entry names this very shard: a tombstone would send everybody in a circle.
  KEYS  the shard's
  ARGV  recent window, gone window, then per player: member, and the directory's entry: shard, epoch
  Reply per player: 1 if the row was buried, else 0 ]]
local function rb1_bury(keys, args)
  local head, problem = look(keys, args)
  if problem then
    return problem
  end
  if (#args - 2) % 3 ~= 0 or not are_whole(args, 4, 3, MOST_EPOCH) or not are_whole(args, 5, 3, MOST_EPOCH) then
    return redis.error_reply('RBFORM three arguments a player: member, shard, epoch')
  end
  local reply, buried, points = {}, 0, 0
  for at = WINDOWS + 1, #args, 3 do
    local member, shard, epoch = args[at], tonumber(args[at + 1]), tonumber(args[at + 2])
    local packed, key = row_of(keys, member)
    local here = packed and epoch_of_row(keys, member)
    local ghost = packed and here <= epoch and shard ~= head.shard
    if ghost then
      redis.call('ZREM', keys[key], member)
      for _, its in ipairs({ EPOCHS, RECENT, RECENT_BEFORE }) do
        redis.call('HDEL', keys[its], member)
      end
      redis.call('HSET', keys[GONE], member, text(epoch) .. ':' .. text(shard))
      buried, points = buried + 1, points + (key == ROWS and points_of(head, packed) or 0)
    end
    reply[#reply + 1] = ghost and 1 or 0
  end
  expire_window(keys[GONE], tonumber(args[2]), GONE_MS)
  count_moves(keys, buried, -points)
  touch(keys, head)
  return reply
end

redis.register_function({ function_name = 'rb1_scan', callback = rb1_scan, flags = { 'no-writes' } })
redis.register_function('rb1_attest', rb1_attest)
redis.register_function('rb1_bury', rb1_bury)
