-- KEYS: stream.  ARGV: subscription, 'brought' or '', then for each delivery: group ('' for the own store), id, fence,
-- owner, and 'requeue' with ms, spent, suspect; or 'delay' with when it is due; or 'release'; or 'bury' with spent, reason,
-- failure: always three, some empty; and if 'brought', the name, key and envelope.
-- Returns '1' (moved), '0' (lost) or 't' (somebody else removed it: name, key and envelope must be brought) for each.
local now = clock()
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local config = call('HMGET', own .. ':c', 'ordered', 'park')
local ordered, park = config[1] == '1', config[2] == '1'
local results, ready = {}, false
local brought = ARGV[2] == 'brought'
begin_even_if_full(own)

-- eid, name, key, envelope, attempt, alone; or nil and why not
local function take_own(id, fence, owner, given)
  local known = call('HGET', own .. ':m', id)
  if not known then return nil, '0' end
  local attempt, held, alone, _, by = read_meta(known)
  if string.format('%.0f', held) ~= fence or by ~= owner then return nil, '0' end
  local ends = call('ZSCORE', own .. ':q', id)
  if not ends or tonumber(ends) <= now then return nil, '0' end
  local body = call('HGET', own .. ':b', id)
  body = body and split(body) or given
  if not body then return nil, 't' end
  call('ZREM', own .. ':q', id)
  return id, body[1], body[2], body[3], attempt, alone
end

local function take_pending(group, id, fence, owner, given)
  local row = call('XPENDING', stream, group, id, id, 1)[1]
  -- Its entry may have been removed while it ran, and have been brought to the own store.
  if not row then return take_own(padded(id), fence, owner, given) end
  local by, ends = lease_of(row, now)
  if by ~= owner or ends <= now then return nil, '0' end
  local found = call('XRANGE', stream, id, id)[1]
  if found then
    local name, key, envelope = entry_of(found[2], tag)
    return padded(id), name, key, envelope, 1, false
  end
  if not given then return nil, 't' end
  return padded(id), given[1], given[2], given[3], 1, false
end

local function letter()
  local last = call('HMGET', own .. ':c', 'buried_ms', 'buried_n')
  local ms, n = tonumber(last[1] or 0), tonumber(last[2] or 0) + 1
  if now > ms then ms, n = now, 0 end
  if n > 4095 then ms, n = ms + 1, 0 end
  call('HSET', own .. ':c', 'buried_ms', string.format('%.0f', ms), 'buried_n', n)
  return string.format('%013.0f%04d', ms, n)
end

local function bury(eid, name, key, envelope, attempt, why, failure)
  local id = letter()
  call('ZADD', own .. ':g', 0, id)
  call('HSET', own .. ':l', id, join(eid, name, key, envelope, tostring(attempt), why, failure))
  call('HSET', own .. ':x', eid, id)
  forget(own, eid)
  if ordered and key ~= '' then
    if park then
      call('HSET', own .. ':p', key, id)
    else
      ready = free(own, key, now) or ready
    end
  end
end

for i = 3, #ARGV, brought and 11 or 8 do
  local group, id, fence, owner, what = unpack(ARGV, i, i + 4)
  local given = brought and {ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]} or nil
  local eid, name, key, envelope, attempt, alone
  local ok = true
  if group ~= '' then
    ok, eid, name, key, envelope, attempt, alone = pcall(take_pending, group, id, fence, owner, given)
  else
    eid, name, key, envelope, attempt, alone = take_own(id, fence, owner, given)
  end
  if not ok then eid, name = nil, '0' end  -- the group is gone, and with it every lease
  if not eid then
    results[#results + 1] = name
  else
    if what == 'bury' then
      bury(eid, name, key, envelope, attempt - 1 + tonumber(ARGV[i + 5]), ARGV[i + 6], ARGV[i + 7])
    else
      local due, suspect = 0, alone
      if what == 'requeue' then
        attempt = attempt + tonumber(ARGV[i + 6])
        suspect = ARGV[i + 7] == '1'
        if tonumber(ARGV[i + 5]) > 0 then due = now + tonumber(ARGV[i + 5]) end
      end
      keep(own, eid, name, key, envelope, attempt, 0, tonumber(fence))
      if what == 'delay' then
        call('ZADD', own .. ':d', ARGV[i + 5], eid)
      else
        call('ZADD', own .. (suspect and ':u' or ':r'), due, eid)
        ready = ready or due == 0
      end
    end
    -- Last: until it is kept elsewhere, it is pending.
    if group ~= '' then count_acked(own, call('XACK', stream, group, id)) end
    results[#results + 1] = '1'
  end
end
if ready then ring_subscription(tag, sub, now) end
return table.concat(results)
