-- Gives a subscription stored entries once more.  KEYS: stream.  ARGV: subscription, ids.  Returns how many it took.
local now = clock()
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local c = call('HMGET', own .. ':c', 'group', 'ordered')
local count = 0
local info = group_of(stream, c[1])
if not info then return 0 end  -- it is made again by the next claim, and reads from the beginning
local last = padded(info['last-delivered-id'])
for i = 2, #ARGV do
  local id = ARGV[i]
  local eid = padded(id)
  local found = call('XRANGE', stream, id, id)[1]
  if found and eid <= last and call('HEXISTS', own .. ':b', eid) == 0
    and #call('XPENDING', stream, c[1], id, id, 1) == 0 then
    local name, key, envelope = entry_of(found[2], tag)
    keep(own, eid, name, key, envelope, 1)
    place(own, c[2] == '1', key, eid, 0, now)
    count = count + 1
  end
end
if count > 0 then ring_subscription(tag, sub, now) end
return count
