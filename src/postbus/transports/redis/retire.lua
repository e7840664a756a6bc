-- Forgets a subscription at one topic.  KEYS: stream.  ARGV: subscription.  Returns how much it held, dead letters too.
local stream = KEYS[1]
local tag = tag_of(stream)
local own = tag .. ':' .. ARGV[1]
local group = call('HGET', own .. ':c', 'group')
-- Before Redis 7 a full server refuses to destroy a group, too.
begin_even_if_full(tag)
local held = call('HLEN', own .. ':b') + call('ZCARD', own .. ':g')
if group and call('EXISTS', stream) == 1 then call('XGROUP', 'DESTROY', stream, group) end
for _, part in ipairs({'c', 'r', 'd', 'u', 'q', 'b', 'm', 'w', 't', 'p', 'g', 'l', 'x'}) do
  call('UNLINK', own .. ':' .. part)
end
local time = call('TIME')
call('HSET', tag .. ':c', 'version', time[1] .. string.format('%06d', tonumber(time[2])))
return held
