-- KEYS: stream.  ARGV: subscription, then for each delivery: group ('' for the own store), id, fence, owner, key.
-- Returns '1' (done) or '0' (lost) for each.
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local c = call('HMGET', own .. ':c', 'ordered', 'sweep_at')
local ordered = c[1] == '1'
local now = clock()
-- Until then no first lease can have ended, and an acknowledgement needs no look.
local ended = c[2] and tonumber(c[2]) <= now
local results, freed = {}, false
for i = 2, #ARGV, 5 do
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
