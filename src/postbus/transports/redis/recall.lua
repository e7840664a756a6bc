-- Takes back what an owner was given without hearing of it.  KEYS: stream.
-- ARGV: subscription, owner, the ids that it knows of.  Returns how many there were.
local now = clock()
local stream, sub, me = KEYS[1], ARGV[1], ARGV[2]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local known = {}
for i = 3, #ARGV do known[ARGV[i]] = true end
local count = 0
call('ZREM', own .. ':q', '')  -- a full server allows this, and then what follows

local function take_back(group, consumer)
  for _, row in ipairs(call('XPENDING', stream, group, '-', '+', 10000, consumer)) do
    if not known[row[1]] then
      local found = call('XRANGE', stream, row[1], row[1])[1]
      if found then
        local name, key, envelope = entry_of(found[2], tag)
        local eid = padded(row[1])
        keep(own, eid, name, key, envelope, 1)
        call('ZADD', own .. ':r', 0, eid)
        count = count + 1
      end
      call('XACK', stream, group, row[1])
    end
  end
end

local group = call('HGET', own .. ':c', 'group')
if group and call('EXISTS', stream) == 1 then
  local ok, consumers = pcall(call, 'XINFO', 'CONSUMERS', stream, group)
  for _, info in ipairs(ok and consumers or {}) do
    local consumer = {}
    for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
    if consumer.pending > 0 and string.match(consumer.name, '^(.*)|%d+$') == me then take_back(group, consumer.name) end
  end
end
for _, eid in ipairs(call('ZRANGE', own .. ':q', 0, -1)) do
  local attempt, _, alone, _, owner = read_meta(call('HGET', own .. ':m', eid) or meta(1, 0, 0, 0, ''))
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
