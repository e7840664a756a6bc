-- Takes back what an owner was given without hearing of it.  KEYS: stream.
-- ARGV: subscription, owner, the ids that it knows of.  Returns how many there were.
local now = clock()
local stream, sub, me = KEYS[1], ARGV[1], ARGV[2]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local known = {}
for i = 3, #ARGV do known[ARGV[i]] = true end
local count = 0
local c = call('HMGET', own .. ':c', 'group', 'wants', 'older')
local T = {stream = stream, tag = tag, own = own, group = c[1], wants_text = c[2], memo = {}}
T.older = older_wants(own, c[3], c[1], stream)
begin_even_if_full(own)

local function take_back(consumer)
  for _, row in ipairs(call('XPENDING', stream, T.group, '-', '+', 10000, consumer)) do
    if not known[row[1]] then
      take_over(T, row[1], ':r', now)
      count = count + 1
    end
  end
end

if T.group and call('EXISTS', stream) == 1 then
  local ok, consumers = pcall(call, 'XINFO', 'CONSUMERS', stream, T.group)
  for _, info in ipairs(ok and consumers or {}) do
    local consumer = fields_of(info)
    if consumer.pending > 0 and string.match(consumer.name, '^(.*)|%d+$') == me then take_back(consumer.name) end
  end
end
for _, eid in ipairs(call('ZRANGE', own .. ':q', 0, -1)) do
  local attempt, _, alone, _, owner = read_meta(call('HGET', own .. ':m', eid))
  if owner == me and not known[eid] then
    call('ZREM', own .. ':q', eid)
    call('ZADD', own .. (alone and ':u' or ':r'), 0, eid)
    call('HSET', own .. ':m', eid, meta(attempt, 0, 0, 0, ''))
    count = count + 1
  end
end
if count > 0 then
  call('HSET', own .. ':c', 'swept', call('HGET', own .. ':c', 'fence') or '0')
  ring_subscription(tag, sub, now)
end
return count
