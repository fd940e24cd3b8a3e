--[[ rb1_open: write a shard's head, unless it has one that is as new. A change of the map comes in two stages: 0, the
  range is widened to what it was and what it will be; 1, it is what the map says.
  KEYS  head
  ARGV  version of the map, stage, parts of the range, part, then field, value, ...
  Reply the head's version afterwards
  Rows that are here already belong to other parts now, if those have changed: the shard is to be combed (strays.lua). ]]
local function rb1_open(keys, args)
  local field = redis.call('HMGET', keys[1], 'version', 'stage', 'parts', 'part')
  local version, stage = tonumber(field[1] or 0), tonumber(field[2] or 0)
  local wanted, wanted_stage = tonumber(args[1]), tonumber(args[2])
  if wanted < version or (wanted == version and wanted_stage <= stage) then
    return version
  end
  if version == 0 then
    redis.call('HSET', keys[1], 'state', 'open')
  end
  local parts, part = args[3], args[4]
  if parts == '1' then
    redis.call('HDEL', keys[1], 'comb')
  elseif version > 0 and (field[3] ~= parts or field[4] ~= part) then
    redis.call('HSET', keys[1], 'comb', COMB_BEGUN)
  end
  redis.call('HSET', keys[1], 'version', text(wanted), 'stage', text(wanted_stage), 'parts', parts, 'part', part,
    unpack(args, 5))
  return wanted
end

--[[ rb1_publish: keep a map, unless one of the same or a higher version is published.
  KEYS  map
  ARGV  generation, version, document
  Reply the document that is published afterwards ]]
local function rb1_publish(keys, args)
  local field = redis.call('HMGET', keys[1], 'generation', 'version', 'document')
  local generation, version = tonumber(field[1] or 0), tonumber(field[2] or 0)
  local wanted, wanted_version = tonumber(args[1]), tonumber(args[2])
  if wanted > generation or (wanted == generation and wanted_version > version) then
    redis.call('HSET', keys[1], 'generation', text(wanted), 'version', text(wanted_version), 'document', args[3])
    return args[3]
  end
  return field[3]
end

redis.register_function('rb1_open', rb1_open)
redis.register_function('rb1_publish', rb1_publish)
