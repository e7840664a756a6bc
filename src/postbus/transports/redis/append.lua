-- KEYS: stream, topic, buckets, strays, then the sets of ids that this batch touches.
-- ARGV: version, 'same' when all ids differ and belong in the first set, else 'mixed', count, the ids, then for each event
-- name, key, envelope, delay in ms ('' for none), and if 'mixed' the number of its set (0: strays).
-- Returns the version when it is another, else '1' (stored) or '0' (duplicate) for each.
local now = clock()
local stream, topic = KEYS[1], KEYS[2]
local version = call('HGET', topic, 'version')
if version ~= ARGV[1] then return {version or ''} end
local results = {}

local function store(name, key, envelope, delay)
  if delay == '' then
    call('XADD', stream, '*', 'n', name, 'k', key, 'e', envelope)
  else
    local due = string.format('%.0f', now + tonumber(delay))
    call('XADD', stream, '*', 'n', name, 'k', key, 'e', envelope, 'd', due)
  end
end

-- Whether none of these ids, each of them another one, is known; they are from now on.
local function all_new(set, first, last)
  for i = first, last, 1000 do
    local known = call('SMISMEMBER', set, unpack(ARGV, i, math.min(i + 999, last)))
    for n = 1, #known do
      if known[n] == 1 then return false end
    end
  end
  for i = first, last, 1000 do
    call('SADD', set, unpack(ARGV, i, math.min(i + 999, last)))
  end
  return true
end

local count = tonumber(ARGV[3])
local first = 4 + count
local answer
if ARGV[2] == 'same' and all_new(KEYS[5], 4, 3 + count) then
  for at = first, first + (count - 1) * 4, 4 do
    if ARGV[at + 3] == '' then
      call('XADD', stream, '*', 'n', ARGV[at], 'k', ARGV[at + 1], 'e', ARGV[at + 2])
    else
      store(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    end
  end
  answer = string.rep('1', count)
else
  for n = 1, count do
    local stride = ARGV[2] == 'mixed' and 5 or 4
    local at = first + (n - 1) * stride
    local bucket = stride == 5 and ARGV[at + 4] or '1'
    local new
    if bucket == '0' then
      new = call('ZADD', KEYS[4], 'NX', now, ARGV[3 + n])
    else
      new = call('SADD', KEYS[4 + bucket], ARGV[3 + n])
    end
    if new == 1 then store(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]) end
    results[n] = new
  end
  answer = table.concat(results)
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
return answer
