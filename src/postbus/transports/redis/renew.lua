-- KEYS: stream.  ARGV: subscription, lease in ms, then for each delivery: group ('' for the own store), id, fence, owner.
-- Returns '1' (renewed) or '0' (lost) for each.
local now = clock()
local stream, own = KEYS[1], tag_of(KEYS[1]) .. ':' .. ARGV[1]
local lease = tonumber(ARGV[2])

local function renew_pending(group, id, owner)
  local row = call('XPENDING', stream, group, id, id, 1)[1]
  if not row or lease_of(row) ~= owner then return 0 end
  call('XCLAIM', stream, group, owner .. '|' .. ARGV[2], 0, id, 'JUSTID')
  return 1
end

local function renew_own(id, fence, owner)
  local known = call('HGET', own .. ':m', id)
  if not known then return 0 end
  local _, held, _, _, by = read_meta(known)
  if string.format('%.0f', held) ~= fence or by ~= owner or not call('ZSCORE', own .. ':q', id) then return 0 end
  call('ZADD', own .. ':q', 'XX', now + lease, id)
  return 1
end

local sweep_at = tonumber(call('HGET', own .. ':c', 'sweep_at') or 0)
if sweep_at > now + lease then call('HSET', own .. ':c', 'sweep_at', now + lease) end
local results = {}
for i = 3, #ARGV, 4 do
  local group, id, fence, owner = unpack(ARGV, i, i + 3)
  if group ~= '' then
    local ok, renewed = pcall(renew_pending, group, id, owner)
    results[#results + 1] = ok and renewed or 0
  else
    results[#results + 1] = renew_own(id, fence, owner)
  end
end
return table.concat(results)
