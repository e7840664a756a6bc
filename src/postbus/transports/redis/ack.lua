-- KEYS: stream.  ARGV: subscription, then for each delivery: group ('' for the own store), id, fence, owner, key.
-- Returns '1' (done) or '0' (lost) for each.
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local own = tag .. ':' .. sub
local ordered = call('HGET', own .. ':c', 'ordered') == '1'
local now = ordered and clock() or 0
local results, freed = {}, false
for i = 2, #ARGV, 5 do
  local group, id = ARGV[i], ARGV[i + 1]
  local done = 0
  if group ~= '' then
    done = call('XACK', stream, group, id)
  else
    local known = call('HGET', own .. ':m', id)
    if known then
      local _, fence, _, _, owner = read_meta(known)
      if string.format('%.0f', fence) == ARGV[i + 2] and owner == ARGV[i + 3] and call('ZREM', own .. ':q', id) == 1 then
        forget(own, id)
        done = 1
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
