-- What waits for another attempt at one topic, the soonest first.  KEYS: stream.
-- ARGV: subscription, the ms and the padded id at which to begin ('0' and '' for the first), how many.
-- Returns for each: when it is due, padded id, which attempt comes, name, key, envelope.
local now = clock()
local own = tag_of(KEYS[1]) .. ':' .. ARGV[1]
local from, first, limit = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local found = {}

local function look(zset)
  local count, offset = 0, 0
  local low = from > now and from or '(' .. now
  while count < limit do
    local page = call('ZRANGEBYSCORE', zset, low, '+inf', 'WITHSCORES', 'LIMIT', offset, limit)
    for i = 1, #page, 2 do
      local eid, due = page[i], tonumber(page[i + 1])
      if count < limit and (due > from or eid >= first) and call('HEXISTS', own .. ':b', eid) == 1 then
        found[#found + 1] = {due, eid}
        count = count + 1
      end
    end
    if #page < 2 * limit then return end
    offset = offset + limit
  end
end

look(own .. ':r')
look(own .. ':u')
table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
local out = {}
for i = 1, math.min(limit, #found) do
  local due, eid = found[i][1], found[i][2]
  local body = split(call('HGET', own .. ':b', eid))
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = string.format('%.0f', due), eid, (read_meta(call('HGET', own .. ':m', eid)))
  out[n + 4], out[n + 5], out[n + 6] = body[1], body[2], body[3]
end
return out
