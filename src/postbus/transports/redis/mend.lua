-- Frees keys that are held by what somebody else removed: the rest of such a key would wait for ever.
-- KEYS: stream.  ARGV: subscription, cursor ('' to begin).  Returns the next cursor, '0' when all keys were looked at.
local now = clock()
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local group = call('HGET', own .. ':c', 'group')
begin_even_if_full(own)
if ARGV[2] == '' then call('HDEL', own .. ':c', 'stray') end  -- what goes astray from now on begins anew

local function lives(holder)
  if not string.find(holder, '-', 1, true) then return true end  -- so many hold it
  local eid = padded(holder)
  if call('HEXISTS', own .. ':b', eid) == 1 then return true end
  local ok, rows = pcall(call, 'XPENDING', stream, group, eid, eid, 1)
  return ok and rows[1] ~= nil
end

local step = call('HSCAN', own .. ':t', ARGV[2] == '' and '0' or ARGV[2], 'COUNT', 300)
local freed = false
for i = 1, #step[2], 2 do
  local key = step[2][i]
  if not lives(step[2][i + 1]) and call('HEXISTS', own .. ':p', key) == 0 then freed = free(own, key, now) or freed end
end
if freed then ring_subscription(tag, sub, now) end
return step[1]
