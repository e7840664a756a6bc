-- Brings what runs, and what somebody else removed from the stream meanwhile, to the own store, with its lease.
-- KEYS: stream.  ARGV: subscription, lease in ms, then for each delivery: id, fence, owner, name, key, envelope.
-- Returns '1' (kept) or '0' (it is there already) for each.
local now = clock()
local own = tag_of(KEYS[1]) .. ':' .. ARGV[1]
begin_even_if_full(own)
local results = {}
for i = 3, #ARGV, 6 do
  local id, fence, owner, name, key, envelope = unpack(ARGV, i, i + 5)
  local eid = padded(id)
  if call('HEXISTS', own .. ':b', eid) == 0 then
    call('HSET', own .. ':b', eid, join(name, key, envelope))
    call('HSET', own .. ':m', eid, meta(1, tonumber(fence), 0, 0, owner))
    call('ZADD', own .. ':q', now + tonumber(ARGV[2]), eid)
    call('HINCRBY', own .. ':c', 'trimmed', -1)
    results[#results + 1] = '1'
  else
    results[#results + 1] = '0'
  end
end
-- From now on acknowledgements look where each is.
local time = call('TIME')
call('HSET', own .. ':c', 'swept', time[1] .. string.format('%06d', tonumber(time[2])))
return table.concat(results)
