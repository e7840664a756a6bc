-- KEYS: stream.  ARGV: subscription, lease in ms, then for each delivery: group ('' for the own store), id, fence, owner.
-- Returns '1' (renewed), '0' (lost) or 't' (somebody else removed it: it must be brought, see bring.lua) for each.
local now = clock()
local stream, own = KEYS[1], tag_of(KEYS[1]) .. ':' .. ARGV[1]
local lease = tonumber(ARGV[2])

begin_even_if_full(own)

local function renew_own(id, fence, owner)
  local known = call('HGET', own .. ':m', id)
  if not known then return '0' end
  local _, held, _, _, by = read_meta(known)
  if string.format('%.0f', held) ~= fence or by ~= owner or not call('ZSCORE', own .. ':q', id) then return '0' end
  call('ZADD', own .. ':q', 'XX', now + lease, id)
  return '1'
end

-- A server lets go of a lease whose entry somebody removed from the stream, so it counts as lost until it is brought.
local function renew_pending(group, id, fence, owner)
  local row = call('XPENDING', stream, group, id, id, 1)[1]
  if not row then return renew_own(padded(id), fence, owner) end
  if lease_of(row, now) ~= owner then return '0' end
  local renewed = call('XCLAIM', stream, group, owner .. '|' .. ARGV[2], 0, id, 'TIME', given_now or now, 'JUSTID')
  if #renewed == 1 then return '1' end
  count_acked(own, 1)
  call('HINCRBY', own .. ':c', 'trimmed', 1)
  call('HSET', own .. ':c', 'stray', '1')
  return 't'
end

local sweep_at = tonumber(call('HGET', own .. ':c', 'sweep_at') or 0)
if sweep_at > now + lease then call('HSET', own .. ':c', 'sweep_at', now + lease) end
local results = {}
for i = 3, #ARGV, 4 do
  local group, id, fence, owner = unpack(ARGV, i, i + 3)
  if group ~= '' then
    local ok, renewed = pcall(renew_pending, group, id, fence, owner)
    results[#results + 1] = ok and renewed or '0'
  else
    results[#results + 1] = renew_own(id, fence, owner)
  end
end
return table.concat(results)
