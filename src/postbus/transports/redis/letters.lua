-- Replays or discards dead letters.  KEYS: stream.  ARGV: subscription, 'replay' or 'discard', letters in order.
-- Returns how many there were.
local now = clock()
local tag = tag_of(KEYS[1])
local own = tag .. ':' .. ARGV[1]
local ordered = call('HGET', own .. ':c', 'ordered') == '1'
local found, ready = {}, false
for i = 3, #ARGV do
  local raw = call('HGET', own .. ':l', ARGV[i])
  if raw then
    found[#found + 1] = {ARGV[i], split(raw)}
    call('ZREM', own .. ':g', ARGV[i])
    call('HDEL', own .. ':l', ARGV[i])
    call('HDEL', own .. ':x', found[#found][2][1])
  end
end
table.sort(found, function(a, b) return a[2][1] < b[2][1] end)  -- the events of a key in the order of append
for _, pair in ipairs(found) do
    local eid, name, key, envelope = unpack(pair[2])
    local parked = ordered and key ~= '' and call('HGET', own .. ':p', key) == pair[1]
    if parked then call('HDEL', own .. ':p', key) end
    if ARGV[2] == 'replay' then
      if call('HEXISTS', own .. ':b', eid) == 0 then
        keep(own, eid, name, key, envelope, 1)
        place(own, ordered and not parked, key, eid, 0, now)
      end
      ready = true
    elseif parked then
      ready = free(own, key, now) or ready
    end
end
if ready then ring_subscription(tag, ARGV[1], now) end
return #found
