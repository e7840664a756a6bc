-- How a subscription stands at one topic, apart from what it has not read; see unread.lua.  KEYS: stream.  ARGV: subscription.
-- Returns backlog, in flight, scheduled, retrying, dead, ms of the oldest (-1: none), ms until the next is due (-1),
-- parked keys, parked events, how many somebody else removed, how many of the backlog wait behind their key, and how many
-- it has not read by the server's count, wanted or not.
local now = clock()
local stream = KEYS[1]
local tag = tag_of(stream)
local own = tag .. ':' .. ARGV[1]
local c = call('HMGET', own .. ':c', 'group', 'trimmed', 'unread_trimmed')
local backlog, in_flight, scheduled, retrying, oldest, next_due, lag = 0, 0, 0, 0, -1, -1, 0

local function old(ms)
  ms = tonumber(ms)
  if oldest < 0 or ms < oldest then oldest = ms end
end

local function due_at(at)
  if next_due < 0 or at - now < next_due then next_due = at - now end
end

local function old_of(zset, from, to)
  for _, eid in ipairs(call('ZRANGEBYSCORE', zset, from, to, 'LIMIT', 0, 1000)) do old(string.sub(eid, 1, 13)) end
end

local function first_after(zset)
  local first = call('ZRANGEBYSCORE', zset, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then due_at(tonumber(first[2])) end
end

local trimmed = tonumber(c[3] or 0)
local group = group_of(stream, c[1])
if group then
  trimmed = math.max(trimmed, unread_trimmed(stream, own, group, fields_of(call('XINFO', 'STREAM', stream))) or 0)
  local rows = call('XPENDING', stream, c[1], '-', '+', 1000)
  for _, row in ipairs(rows) do
    local _, ends = lease_of(row, now)
    if ends <= now then
      backlog = backlog + 1
    else
      in_flight = in_flight + 1
    end
    old(string.match(row[1], '^%d+'))
  end
  in_flight = in_flight + group.pending - #rows
  lag = tonumber(group.lag) or 0
end
trimmed = trimmed + tonumber(c[2] or 0)
for _, zset in ipairs({own .. ':r', own .. ':d', own .. ':u'}) do
  backlog = backlog + call('ZCOUNT', zset, '-inf', now)
  old_of(zset, '-inf', now)
  first_after(zset)
end
retrying = call('ZCOUNT', own .. ':r', '(' .. now, '+inf') + call('ZCOUNT', own .. ':u', '(' .. now, '+inf')
scheduled = scheduled + call('ZCOUNT', own .. ':d', '(' .. now, '+inf')
in_flight = in_flight + call('ZCOUNT', own .. ':q', '(' .. now, '+inf')
backlog = backlog + call('ZCOUNT', own .. ':q', '-inf', now)
old_of(own .. ':q', '-inf', '+inf')
local parked, parked_events = call('HLEN', own .. ':p'), 0
for _, key in ipairs(call('HKEYS', own .. ':p')) do
  parked_events = parked_events + call('ZLEXCOUNT', own .. ':w', '[' .. key .. '\0', '(' .. key .. '\1')
end
local waiting = call('ZCARD', own .. ':w')
local behind = waiting - parked_events
if waiting > 0 then
  for _, member in ipairs(call('ZRANGE', own .. ':w', 0, 999)) do
    local key, eid = string.match(member, '^(.*)%z([^%z]*)$')
    local _, _, _, due = read_meta(call('HGET', own .. ':m', eid))
    if due > now then
      if call('HEXISTS', own .. ':p', key) == 0 then
        behind, scheduled = behind - 1, scheduled + 1
      end
    else
      old(string.sub(eid, 1, 13))
    end
  end
end
return {backlog + behind, in_flight, scheduled, retrying, call('ZCARD', own .. ':g'),
  oldest < 0 and -1 or now - oldest, next_due, parked, parked_events, trimmed, behind, lag}
