-- Behind one.lua, which has stored an event that came alone.
-- KEYS: stream, topic, buckets, strays, then the sets of ids that this batch touches.
-- ARGV: version, 'alike', 'same' or 'mixed', count, the ids; if 'alike', the name, and key and envelope for each event; else
-- for each name, key, envelope, delay in ms ('' for none), and if 'mixed' the number of its set (0: strays).
-- In 'same' all ids differ and belong in the first set; in 'alike' all have one name too, and no delay.
-- Returns the version when it is another, else '1' (stored) or '0' (duplicate) for each.
local stream, topic = KEYS[1], KEYS[2]
local c = call('HMGET', topic, 'version', 'bell')
if c[1] ~= ARGV[1] then return {c[1] or ''} end
local now = clock()
local answer = '1'

local function store(at)
  if ARGV[at + 3] == '' then
    call('XADD', stream, '*', 'n', ARGV[at], 'k', ARGV[at + 1], 'e', ARGV[at + 2])
  else
    local due = string.format('%.0f', now + tonumber(ARGV[at + 3]))
    call('XADD', stream, '*', 'n', ARGV[at], 'k', ARGV[at + 1], 'e', ARGV[at + 2], 'd', due)
  end
end

-- Whether none of these ids, each of them another one, is known; they are from now on.
local function all_new(set, last)
  for i = 4, last, 1000 do
    local known = call('SMISMEMBER', set, unpack(ARGV, i, math.min(i + 999, last)))
    for n = 1, #known do
      if known[n] == 1 then return false end
    end
  end
  for i = 4, last, 1000 do
    call('SADD', set, unpack(ARGV, i, math.min(i + 999, last)))
  end
  return true
end

-- Whether an id is another one than those of its set (0: strays); it is known from now on.
local function is_new(id, set)
  if set == '0' then return call('ZADD', KEYS[4], 'NX', now, id) == 1 end
  return call('SADD', KEYS[4 + set], id) == 1
end

if ARGV[2] == 'alike' and all_new(KEYS[5], 3 + ARGV[3]) then
  local first = 4 + ARGV[3]
  local name = ARGV[first]
  for at = first + 1, #ARGV, 2 do
    call('XADD', stream, '*', 'n', name, 'k', ARGV[at], 'e', ARGV[at + 1])
  end
  answer = string.rep('1', ARGV[3])
elseif ARGV[2] == 'alike' then
  local first, results = 4 + ARGV[3], {}
  for n = 1, ARGV[3] do
    local new = is_new(ARGV[3 + n], '1')
    if new then
      call('XADD', stream, '*', 'n', ARGV[first], 'k', ARGV[first + 2 * n - 1], 'e', ARGV[first + 2 * n])
    end
    results[n] = new and '1' or '0'
  end
  answer = table.concat(results)
elseif ARGV[2] ~= 'one' then
  local results, stride = {}, ARGV[2] == 'mixed' and 5 or 4
  for n = 1, ARGV[3] do
    local at = 4 + ARGV[3] + (n - 1) * stride
    local new = is_new(ARGV[3 + n], stride == 5 and ARGV[at + 4] or '1')
    if new then store(at) end
    results[n] = new and '1' or '0'
  end
  answer = table.concat(results)
end

-- A set of a million ids that expires by itself blocks the server for a tenth of a second: it is unlinked before that,
-- eleven minutes after its last id came.  That is noted now and then, and the ten seconds between are added.
local tidy = #KEYS == 4
for i = 5, #KEYS do
  local kept = call('ZSCORE', KEYS[3], KEYS[i])
  if not kept or tonumber(kept) < now + 660000 then
    call('ZADD', KEYS[3], now + 670000, KEYS[i])
    call('PEXPIRE', KEYS[i], 1800000)
    tidy = true
  end
end
if tidy then
  local old = call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 10)
  for i = 1, #old do
    call('UNLINK', old[i])
    call('ZREM', KEYS[3], old[i])
  end
  call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - 660000)
end
if rests(c[2], now) then
  local tag = tag_of(stream)
  ring_now(topic, channel_of(tag), topic_of(tag), now)
end
return answer
