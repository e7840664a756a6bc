-- KEYS: stream, topic, buckets, strays, then the sets of ids that this batch touches.
-- ARGV: version, then for each event: id, number of its set (0: strays), name, key, envelope, delay in ms ('' for none).
-- Returns the version when it is another, else '1' (stored) or '0' (duplicate) for each.
local now = clock()
local stream, topic = KEYS[1], KEYS[2]
local version = call('HGET', topic, 'version')
if version ~= ARGV[1] then return {version or ''} end
local results = {}
for i = 2, #ARGV, 6 do
  local id, bucket = ARGV[i], tonumber(ARGV[i + 1])
  local new
  if bucket == 0 then
    new = call('ZADD', KEYS[4], 'NX', now, id)
  else
    new = call('SADD', KEYS[4 + bucket], id)
  end
  if new == 1 then
    local delay = ARGV[i + 5]
    if delay == '' then
      call('XADD', stream, '*', 'n', ARGV[i + 2], 'k', ARGV[i + 3], 'e', ARGV[i + 4])
    else
      local due = string.format('%.0f', now + tonumber(delay))
      local at = call('XADD', stream, '*', 'n', ARGV[i + 2], 'k', ARGV[i + 3], 'e', ARGV[i + 4], 'd', due)
      call('ZADD', tag_of(stream) .. ':z', due, padded(at))
    end
  end
  results[#results + 1] = new
end
-- A set of a million ids that expires by itself blocks the server for a tenth of a second: it is unlinked before that.
for i = 5, #KEYS do
  call('ZADD', KEYS[3], now + 660000, KEYS[i])
  call('PEXPIRE', KEYS[i], 1800000)
end
local old = call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 10)
for i = 1, #old do
  call('UNLINK', old[i])
  call('ZREM', KEYS[3], old[i])
end
call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - 660000)
ring(topic, channel_of(tag_of(stream)), topic_of(tag_of(stream)), now)
return table.concat(results)
