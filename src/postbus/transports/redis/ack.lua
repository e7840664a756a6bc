-- KEYS: stream.  ARGV: subscription, 'each', then for each delivery: group ('' for the own store), id, fence, owner, key.
-- Or, when all are first leases of one group that were never settled before: subscription, group, their least fence, ids.
-- Returns '1' (done) or '0' (lost) for each; '' when they must be looked at each by itself.
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local c = call('HMGET', own .. ':c', 'ordered', 'sweep_at', 'swept')
local ordered = c[1] == '1'
local now = clock()
-- Until then no first lease can have ended, and an acknowledgement needs no look.
local ended = c[2] and tonumber(c[2]) <= now
if ARGV[2] ~= 'each' then
  -- What was claimed after the last sweep that found something is still leased.
  if ordered or ended or (c[3] and tonumber(c[3]) >= tonumber(ARGV[3])) then return '' end
  local done = 0
  for i = 4, #ARGV, 1000 do
    done = done + call('XACK', stream, ARGV[2], unpack(ARGV, i, math.min(i + 999, #ARGV)))
  end
  return string.rep(done == 0 and '0' or '1', #ARGV - 3)
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
