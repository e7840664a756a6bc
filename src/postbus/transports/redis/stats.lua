-- How a subscription stands at one topic.  KEYS: stream.  ARGV: subscription.
-- Returns backlog, in flight, scheduled, retrying, dead, ms of the oldest (-1: none), ms until the next is due (-1),
-- parked keys, parked events, and the id up to which its group has read.
local now = clock()
local stream = KEYS[1]
local tag = tag_of(stream)
local own = tag .. ':' .. ARGV[1]
local c = call('HMGET', own .. ':c', 'group', 'wants', 'older')
local T = {memo = {}, wants_text = c[2], older = c[3] and c[3] ~= '' and cjson.decode(c[3]) or nil}
local backlog, in_flight, scheduled, retrying, oldest, next_due, last = 0, 0, 0, 0, -1, -1, '0-0'

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

local function unread(lag)
  local from, seen, wanted_count = '(' .. last, 0, 0
  while seen < 5000 do
    local entries = call('XRANGE', stream, from, '+', 'COUNT', 500)
    for _, entry in ipairs(entries) do
      local name, _, _, due = entry_of(entry[2], tag)
      if wanted(T, name, entry[1]) then
        if due and due > now then
          scheduled = scheduled + 1
          due_at(due)
        else
          wanted_count = wanted_count + 1
          old(string.match(entry[1], '^%d+'))
        end
      end
    end
    seen = seen + #entries
    if #entries < 500 then
      backlog = backlog + wanted_count
      return
    end
    from = '(' .. entries[500][1]
  end
  backlog = backlog + math.max(wanted_count, lag)
end

if c[1] and call('EXISTS', stream) == 1 then
  for _, info in ipairs(call('XINFO', 'GROUPS', stream)) do
    if info[2] == c[1] then
      local group = {}
      for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
      last = group['last-delivered-id']
      local rows = call('XPENDING', stream, c[1], '-', '+', 1000)
      for _, row in ipairs(rows) do
        if now - row[3] + tonumber(string.match(row[2], '|(%d+)$') or 0) <= now then
          backlog = backlog + 1
        else
          in_flight = in_flight + 1
        end
        old(string.match(row[1], '^%d+'))
      end
      in_flight = in_flight + group.pending - #rows
      unread(tonumber(group.lag) or 0)
    end
  end
end
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
backlog = backlog + waiting - parked_events
if waiting > 0 then
  for _, member in ipairs(call('ZRANGE', own .. ':w', 0, 999)) do
    local key, eid = string.match(member, '^(.*)%z([^%z]*)$')
    local _, _, _, due = read_meta(call('HGET', own .. ':m', eid))
    if due > now then
      if call('HEXISTS', own .. ':p', key) == 0 then
        backlog, scheduled = backlog - 1, scheduled + 1
      end
    else
      old(string.sub(eid, 1, 13))
    end
  end
end
return {backlog, in_flight, scheduled, retrying, call('ZCARD', own .. ':g'), oldest < 0 and -1 or now - oldest, next_due,
  parked, parked_events, last}
