-- KEYS: the streams of the subscription's topics.
-- ARGV: subscription, owner, limit, lease in ms, '1' for suspects only, entries that may be looked at.
-- Returns ms until the next is due (-1: none), whether there are suspects, whether there is more to look at, the group
-- from which the next claims may read without this script for a while ('' for none), the topic whose held keys must be
-- looked through because somebody else removed what may hold one (0: none), then runs of deliveries: topic, group ('' for the own store), first fence, count, and for each id, name, key, envelope, and for
-- those of the own store their attempt.
local now = clock()
local sub, owner, limit, lease, alone, budget =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
local consumer = owner .. '|' .. ARGV[4]
local got, next_due, suspects, more = 0, -1, 0, 0
local out = {}
local topics = {}
-- By the clock, so that each claim's is greater than those of all claims before it, whatever the subscription.
local time = call('TIME')
local fence = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function due_at(at)
  if next_due < 0 or at - now < next_due then next_due = at - now end
end

-- What ran out of its lease becomes suspect.  First leases are in the group's list of pending entries, which is read
-- from a cursor on, and only when the first of them can have ended.
local function expire_pending(T)
  if T.sweep_at == 0 or now < T.sweep_at then return end
  local rows = call('XPENDING', T.stream, T.group, T.cursor, '+', 200)
  local first_end = T.first_end
  local moved = false
  for _, row in ipairs(rows) do
    local _, ends = lease_of(row, now)
    if ends <= now then
      take_over(T, row[1], ':u', now)
      moved = true
    elseif first_end == 0 or ends < first_end then
      first_end = ends
    end
  end
  if moved then call('HSET', T.own .. ':c', 'swept', string.format('%.0f', fence)) end
  if #rows == 200 then
    more = 1
    call('HSET', T.own .. ':c', 'cursor', '(' .. rows[200][1], 'first_end', first_end)
  else
    -- Where nothing is pending, a look now and then: somebody may have read without this script just before.
    T.sweep_at = first_end > 0 and first_end or now + 5000
    call('HSET', T.own .. ':c', 'cursor', '-', 'first_end', 0, 'sweep_at', T.sweep_at)
  end
end

local function expire_own(T)
  for _, eid in ipairs(call('ZRANGEBYSCORE', T.own .. ':q', '-inf', now, 'LIMIT', 0, 200)) do
    local attempt, _, was_alone = read_meta(call('HGET', T.own .. ':m', eid))
    if was_alone then attempt = attempt + 1 end
    call('ZREM', T.own .. ':q', eid)
    call('ZADD', T.own .. ':u', 0, eid)
    call('HSET', T.own .. ':m', eid, meta(attempt, 0, 0, 0, ''))
  end
end

local function lease_own(T, from, listed)
  local eids = {}
  for _, eid in ipairs(listed) do
    if call('HEXISTS', T.own .. ':b', eid) == 1 and call('HEXISTS', T.own .. ':m', eid) == 1 then
      eids[#eids + 1] = eid
    else  -- somebody deleted it
      call('ZREM', from, eid)
      forget(T.own, eid)
      call('HINCRBY', T.own .. ':c', 'trimmed', 1)
      call('HSET', T.own .. ':c', 'stray', '1')
    end
  end
  if #eids == 0 then return end
  for _, eid in ipairs(eids) do
    local _, held = read_meta(call('HGET', T.own .. ':m', eid))
    fence = math.max(fence, held)
  end
  out[#out + 1] = T.place
  out[#out + 1] = ''
  out[#out + 1] = string.format('%.0f', fence + 1)
  out[#out + 1] = #eids
  for _, eid in ipairs(eids) do
    local attempt = read_meta(call('HGET', T.own .. ':m', eid))
    fence = fence + 1
    local body = split(call('HGET', T.own .. ':b', eid))
    call('ZREM', from, eid)
    call('ZADD', T.own .. ':q', now + lease, eid)
    call('HSET', T.own .. ':m', eid, meta(attempt, fence, alone and 1 or 0, 0, owner))
    out[#out + 1] = eid
    out[#out + 1] = body[1]
    out[#out + 1] = body[2]
    out[#out + 1] = body[3]
    out[#out + 1] = attempt
  end
  got = got + #eids
end

local function take_due(T, zset)
  local first = call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  if #first == 0 then return end
  if tonumber(first[2]) <= now and got < limit then
    lease_own(T, zset, call('ZRANGEBYSCORE', zset, '-inf', now, 'LIMIT', 0, limit - got))
    first = call('ZRANGE', zset, 0, 0, 'WITHSCORES')
    if #first == 0 then return end
  end
  if tonumber(first[2]) > now then due_at(tonumber(first[2])) end
end

local function acknowledge(T, ids)
  for i = 1, #ids, 500 do
    count_acked(T.own, call('XACK', T.stream, T.group, unpack(ids, i, math.min(i + 499, #ids))))
  end
end

-- Which keys of these entries are held, and from now on those that are not.
local function busy_keys(T, entries)
  local keys, busy = {}, {}
  for i, entry in ipairs(entries) do
    local _, key = entry_of(entry[2], T.tag)
    keys[i] = key
  end
  local held = #keys > 0 and call('HMGET', T.own .. ':t', unpack(keys)) or {}
  for i, key in ipairs(keys) do busy[key] = busy[key] or held[i] ~= false end
  return busy
end

-- Whether the entry may be handed out at once; else it moves to the own store.
local function admit(T, id, name, key, envelope, due, busy, taken)
  local late = due ~= nil and due > now
  local held = false
  if T.ordered and key ~= '' then
    held = busy[key]
    if not held then
      busy[key] = true
      taken[#taken + 1] = key
      taken[#taken + 1] = id
    end
  end
  if not held and not late then return true end
  local eid = padded(id)
  keep(T.own, eid, name, key, envelope, 1, due)
  if held then
    call('ZADD', T.own .. ':w', 0, key .. '\0' .. eid)
  else
    call('ZADD', T.own .. ':d', due, eid)
    due_at(due)
  end
  return false
end

-- A clock that is moved by hand reckons leases too.
local function stamp(T, entries)
  for _, entry in ipairs(entries) do
    call('XCLAIM', T.stream, T.group, consumer, 0, entry[1], 'TIME', given_now, 'JUSTID')
  end
end

-- Whether a group that was made again reads what its subscription has already: it waits in the own store, or is dead.
local function has_already(T, id)
  local eid = padded(id)
  if eid > T.again then
    T.again = nil
    call('HDEL', T.own .. ':c', 'again')
    return false
  end
  return call('HEXISTS', T.own .. ':b', eid) == 1 or call('HEXISTS', T.own .. ':x', eid) == 1
end

local function take_new(T)
  local moved, first = {}, #out
  out[first + 1], out[first + 2], out[first + 3], out[first + 4] = T.place, T.group, '0', 0
  local count = 0
  while got < limit do
    if budget <= 0 then
      more = 1
      break
    end
    local asked = math.min(limit - got, budget)
    local read = redis.pcall('XREADGROUP', 'GROUP', T.group, consumer, 'COUNT', asked, 'STREAMS', T.stream, '>')
    if read and read.err then return read end
    if not read then break end
    local entries = read[1][2]
    if given_now then stamp(T, entries) end
    local busy = T.ordered and busy_keys(T, entries)
    local taken = {}
    for _, entry in ipairs(entries) do
      local id = entry[1]
      local name, key, envelope, due = entry_of(entry[2], T.tag)
      if not wanted(T, name, id) or (T.again and has_already(T, id)) or not admit(T, id, name, key, envelope, due, busy, taken) then
        moved[#moved + 1] = id
      else
        local n = #out
        out[n + 1], out[n + 2], out[n + 3], out[n + 4] = id, name, key, envelope
        count, got = count + 1, got + 1
      end
    end
    if #taken > 0 then call('HSET', T.own .. ':t', unpack(taken)) end
    budget = budget - #entries
    if #entries < asked then break end
  end
  if #moved > 0 then acknowledge(T, moved) end
  if count == 0 then
    for i = 1, 4 do out[first + i] = nil end
  else
    out[first + 3], out[first + 4] = string.format('%.0f', fence + 1), count
    fence = fence + count
    if T.sweep_at == 0 or now + lease < T.sweep_at then
      T.sweep_at = now + lease
      call('HSET', T.own .. ':c', 'sweep_at', T.sweep_at)
    end
  end
end

for i = 1, #KEYS do
  local tag = tag_of(KEYS[i])
  local own = tag .. ':' .. sub
  local c = call('HMGET', own .. ':c', 'group', 'wants', 'older', 'ordered', 'paused', 'fence', 'sweep_at', 'cursor',
    'first_end', 'again', 'stray')
  if not c[1] then return redis.error_reply('GONE ' .. KEYS[i]) end
  topics[i] = {
    place = i, stream = KEYS[i], tag = tag, own = own, group = c[1], wants_text = c[2], ordered = c[4] == '1',
    paused = c[5] == '1', fence = tonumber(c[6] or 0), sweep_at = tonumber(c[7] or 0),
    cursor = c[8] or '-', first_end = tonumber(c[9] or 0), memo = {},
    again = c[10] or nil, stray = c[11] == '1',
    older = older_wants(own, c[3], c[1], KEYS[i]),
  }
end
for _, T in ipairs(topics) do fence = math.max(fence, T.fence) end
local started = fence
begin_even_if_full(topics[1].own)
for _, T in ipairs(topics) do
  expire_own(T)
  local ok, why = pcall(expire_pending, T)
  if not ok then return redis.error_reply('NOGROUP of ' .. T.stream .. ': ' .. tostring(why and why.err or why)) end
  if not T.paused then
    if alone then
      if got < limit and got == 0 then
        lease_own(T, T.own .. ':u', call('ZRANGEBYSCORE', T.own .. ':u', '-inf', now, 'LIMIT', 0, 1))
      end
    else
      take_due(T, T.own .. ':r')
      take_due(T, T.own .. ':d')
    end
    local first = call('ZRANGE', T.own .. ':u', 0, 0, 'WITHSCORES')
    if first[2] then
      if tonumber(first[2]) <= now then suspects = 1 else due_at(tonumber(first[2])) end
    end
  end
end
if not alone then
  for _, T in ipairs(topics) do
    if not T.paused then
      local refused = take_new(T)
      if refused then return refused end
    end
  end
end
for _, T in ipairs(topics) do
  if fence ~= started then call('HSET', T.own .. ':c', 'fence', string.format('%.0f', fence)) end
  if got < limit then
    call('HDEL', T.tag .. ':c', 'bell')
    call('HDEL', T.own .. ':c', 'bell')
  end
end
local direct, stray = '', 0
for i, T in ipairs(topics) do
  if T.stray then stray = i end
end
if #KEYS == 1 and not alone and not given_now then
  local T = topics[1]
  if not (T.ordered or T.paused or T.older or T.again) and T.sweep_at > now then
    direct = T.group
    if T.sweep_at > now + lease then call('HSET', T.own .. ':c', 'sweep_at', now + lease) end
  end
end
return {next_due, suspects, more, direct, stray, unpack(out)}
