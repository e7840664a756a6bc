-- Lets a dead letter hold another event.  KEYS: stream.  ARGV: subscription, letter, name, key, envelope.
-- Returns 1, or 0 when there is no such letter.
local now = clock()
local own = tag_of(KEYS[1]) .. ':' .. ARGV[1]
local raw = call('HGET', own .. ':l', ARGV[2])
if not raw then return 0 end
local old = split(raw)
-- Its place among the entries is that of one that came now, with a number that the stream gives to none.
local n = tonumber(call('HINCRBY', own .. ':c', 'amended', 1)) % 100000
local eid = string.format('%013.0f-9%05d', now, n)
call('HSET', own .. ':l', ARGV[2], join(eid, ARGV[3], ARGV[4], ARGV[5], old[5], old[6], old[7]))
call('HDEL', own .. ':x', old[1])
call('HSET', own .. ':x', eid, ARGV[2])
return 1
