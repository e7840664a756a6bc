-- A worker says that it lives, to a full server too.  KEYS: workers.  ARGV: owner, lease in ms, what it says of itself.
local call = redis.call
call('HDEL', KEYS[1], '')
local now = call('TIME')
local lasts = tonumber(now[1]) + tonumber(now[2]) / 1000000 + tonumber(ARGV[2]) / 1000
call('HSET', KEYS[1], ARGV[1], '{"until":' .. string.format('%.6f', lasts) .. ',"info":' .. ARGV[3] .. '}')
return 1
