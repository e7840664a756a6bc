-- What a subscription has not read at one topic, a thousand entries at a time.
-- KEYS: stream.  ARGV: subscription, the id behind which to begin ('' for what its group read last).
-- Returns the id behind which to go on ('' when that was all), how many are ready, how many scheduled, ms of the oldest
-- (-1: none), ms until the next is due (-1).
local now = clock()
local stream = KEYS[1]
local tag = tag_of(stream)
local own = tag .. ':' .. ARGV[1]
local c = call('HMGET', own .. ':c', 'group', 'wants', 'older')
local group = group_of(stream, c[1])
if not group then return {'', 0, 0, -1, -1} end
local T = {memo = {}, wants_text = c[2], older = c[3] and c[3] ~= '' and cjson.decode(c[3]) or nil}
local ready, scheduled, oldest, next_due = 0, 0, -1, -1
local from = ARGV[2] ~= '' and ARGV[2] or group['last-delivered-id']
local entries = call('XRANGE', stream, '(' .. from, '+', 'COUNT', 1000)
for _, entry in ipairs(entries) do
  local name, _, _, due = entry_of(entry[2], tag)
  if wanted(T, name, entry[1]) then
    if due and due > now then
      scheduled = scheduled + 1
      if next_due < 0 or due - now < next_due then next_due = due - now end
    else
      ready = ready + 1
      if oldest < 0 then oldest = math.max(0, now - tonumber(string.match(entry[1], '^%d+'))) end
    end
  end
end
return {#entries == 1000 and entries[1000][1] or '', ready, scheduled, oldest, next_due}
