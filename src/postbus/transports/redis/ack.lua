-- KEYS: stream.  ARGV: subscription, 'each', then for each delivery: group ('' for the own store), id, fence, owner, key.
-- Or, when all are first leases of one group that were never settled before: subscription, group, their least fence, count,
-- ids, keys.
-- Returns '1' (done) or '0' (lost) for each; '' when they must be looked at each by itself.
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local c = call('HMGET', own .. ':c', 'ordered', 'sweep_at', 'swept', 'shared')
local ordered = c[1] == '1'
local now = clock()
-- Until then no first lease can have ended, and an acknowledgement needs no look.
local ended = c[2] and tonumber(c[2]) <= now

-- Nobody waits behind any key, and each is held once: then they are free without a look at each.
local function free_all(first)
  if c[4] == '1' or call('ZCARD', own .. ':w') > 0 then
    local freed = false
    for i = first, #ARGV do
      if ARGV[i] ~= '' then freed = free(own, ARGV[i], now) or freed end
    end
    if freed then ring_subscription(tag, sub, now) end
    return
  end
  for i = first, #ARGV, 1000 do
    call('HDEL', own .. ':t', unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
end

if ARGV[2] ~= 'each' then
  -- What was claimed after the last sweep that found something is still leased.
  if ended or (c[3] and tonumber(c[3]) >= tonumber(ARGV[3])) then return '' end
  local count, done = tonumber(ARGV[4]), 0
  for i = 5, 4 + count, 1000 do
    done = done + call('XACK', stream, ARGV[2], unpack(ARGV, i, math.min(i + 999, 4 + count)))
  end
  if done == 0 then return string.rep('0', count) end
  if ordered then free_all(5 + count) end
  return string.rep('1', count)
end
local results, freed = {}, false
for i = 3, #ARGV, 5 do
  local group, id = ARGV[i], ARGV[i + 1]
  local done = 0
  if group ~= '' then
    local lasts = true
    if ended then
      local ok, rows = pcall(call, 'XPENDING', stream, group, id, id, 1)
      local owner
      if ok and rows[1] then owner, lasts = lease_of(rows[1]) end
      lasts = lasts and (owner == nil or owner == ARGV[i + 3])
    end
    if lasts then done = call('XACK', stream, group, id) end
  else
    local known = call('HGET', own .. ':m', id)
    if known then
      local _, fence, _, _, owner = read_meta(known)
      if string.format('%.0f', fence) == ARGV[i + 2] and owner == ARGV[i + 3] then
        local ends = call('ZSCORE', own .. ':q', id)
        if ends and tonumber(ends) > now then
          call('ZREM', own .. ':q', id)
          forget(own, id)
          done = 1
        end
      end
    end
  end
  if done == 1 and ordered and ARGV[i + 4] ~= '' then
    freed = free(own, ARGV[i + 4], now) or freed
  end
  results[#results + 1] = done
end
if freed then ring_subscription(tag, sub, now) end
return table.concat(results)
