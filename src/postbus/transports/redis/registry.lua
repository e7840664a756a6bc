-- Changes the registry of a namespace, if it is still as it was read.
-- KEYS: registry, subscriptions, names.  ARGV: revision as read ('' for none), next number, how many topics' names,
-- those names, then pairs of number and record ('' deletes).  Returns the new revision, or '' when it was not so.
local call = redis.call
local PUBLISH = 'PUBLISH'
local now = call('TIME')
local revision = call('HGET', KEYS[1], 'revision')
if (revision or '') ~= ARGV[1] then return '' end
call('HDEL', KEYS[1], '')  -- a full server allows this, and then what follows: who makes room must be able to declare
if not revision then
  call('HSET', KEYS[1], 'epoch', now[1] .. '.' .. now[2], 'revision', now[1] .. '000000', 'format', '1')
end
if ARGV[2] ~= '' then call('HSET', KEYS[1], 'number', ARGV[2]) end
local names = tonumber(ARGV[3])
for i = 4, 3 + names do call('SADD', KEYS[3], ARGV[i]) end
for i = 4 + names, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    call('HDEL', KEYS[2], ARGV[i])
  else
    call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
if PUBLISH == 'SPUBLISH' then  -- who listens must know on which channels
  call(PUBLISH, string.match(KEYS[1], '^{.-}') .. ':bell', 'registry')
end
return tostring(call('HINCRBY', KEYS[1], 'revision', 1))
