-- KEYS: stream.  ARGV: subscription, owner and ms for which the next of each key is leased to him ('' for not at all),
-- 'each', then for each delivery: group ('' for the own store), id, fence, owner, key.
-- Or, when all are first leases of one group that were never settled before: ..., group, their least fence, count, ids,
-- keys.
-- Returns '1' (done) or '0' (lost) for each; '' when they must be looked at each by itself.  Where something follows, in
-- a list with it: its first fence, and for each its id, the joined name, key and envelope, and the attempt.
local stream, sub, follower = KEYS[1], ARGV[1], ARGV[2]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local c = call('HMGET', own .. ':c', 'ordered', 'sweep_at', 'swept', 'shared', 'paused', 'fence')
local ordered = c[1] == '1'
local lease = ordered and c[5] ~= '1' and tonumber(ARGV[3])
local now = clock()
-- Until then no first lease can have ended, and an acknowledgement needs no look.
local ended = c[2] and tonumber(c[2]) <= now
local followers, freed = {}, false

-- A key is free: what waits for it is leased to whoever asked for that, else it is ready for everybody.
local function pass_on(key)
  local eid = hand_on(own, key)
  if not eid then return end
  local known, body = call('HGET', own .. ':m', eid), call('HGET', own .. ':b', eid)
  local attempt, held, alone, due = read_meta(known)
  if lease and known and body and due <= now then
    followers[#followers + 1] = {eid, body, attempt, held}
  else
    make_ready(own, eid, due, now)
    freed = true
  end
end

-- By the clock, and greater than all before it, as in the claim script.
local function lease_followers(answer)
  local t = call('TIME')
  local fence = math.max(t[1] * 1000000 + t[2], tonumber(c[6] or 0))
  local started = fence
  for _, f in ipairs(followers) do fence = math.max(fence, f[4]) end
  local out = {answer, string.format('%.0f', fence + 1)}
  for _, f in ipairs(followers) do
    fence = fence + 1
    call('ZADD', own .. ':q', now + lease, f[1])
    call('HSET', own .. ':m', f[1], meta(f[3], fence, 0, 0, follower))
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = f[1], f[2], f[3]
  end
  if fence ~= started then call('HSET', own .. ':c', 'fence', string.format('%.0f', fence)) end
  return out
end

local function answer_with(answer)
  if freed then ring_subscription(tag, sub, now) end
  if #followers > 0 then return lease_followers(answer) end
  return answer
end

-- Nobody waits behind any key, and each is held once: then they are free without a look at each.
local function free_all(first)
  if c[4] == '1' or call('ZCARD', own .. ':w') > 0 then
    for i = first, #ARGV do
      if ARGV[i] ~= '' then pass_on(ARGV[i]) end
    end
    return
  end
  for i = first, #ARGV, 1000 do
    call('HDEL', own .. ':t', unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
end

if ARGV[4] ~= 'each' then
  -- What was claimed after the last sweep that found something is still leased.
  if ended or (c[3] and tonumber(c[3]) >= tonumber(ARGV[5])) then return '' end
  local count, done = tonumber(ARGV[6]), 0
  for i = 7, 6 + count, 1000 do
    done = done + call('XACK', stream, ARGV[4], unpack(ARGV, i, math.min(i + 999, 6 + count)))
  end
  count_acked(own, done)
  if done == 0 then return string.rep('0', count) end
  if ordered then free_all(7 + count) end
  return answer_with(string.rep('1', count))
end

local function ack_own(id, fence, owner)
  local known = call('HGET', own .. ':m', id)
  if not known then return 0 end
  local _, held, _, _, by = read_meta(known)
  if string.format('%.0f', held) ~= fence or by ~= owner then return 0 end
  local ends = call('ZSCORE', own .. ':q', id)
  if not ends or tonumber(ends) <= now then return 0 end
  call('ZREM', own .. ':q', id)
  forget(own, id)
  return 1
end

local function ack_pending(group, id, fence, owner)
  if ended then
    local ok, rows = pcall(call, 'XPENDING', stream, group, id, id, 1)
    if ok and rows[1] then
      local by, ends = lease_of(rows[1], now)
      if ends <= now or by ~= owner then return 0 end
    end
  end
  local done = call('XACK', stream, group, id)
  count_acked(own, done)
  -- Its entry was taken from the stream while it ran, and it was brought here.
  return done == 1 and 1 or ack_own(padded(id), fence, owner)
end

local results = {}
for i = 5, #ARGV, 5 do
  local group, id, fence, owner, key = unpack(ARGV, i, i + 4)
  local done
  if group ~= '' then
    done = ack_pending(group, id, fence, owner)
  else
    done = ack_own(id, fence, owner)
  end
  if done == 1 and ordered and key ~= '' then pass_on(key) end
  results[#results + 1] = done
end
return answer_with(table.concat(results))
