-- Keeps records of one kind.  KEYS: places, bodies by place, places behind their subject.
-- ARGV: the oldest place to keep, how many to keep at most, then place, subject and body of each.
local call = redis.call
local places, bodies, subjects = KEYS[1], KEYS[2], KEYS[3]

local function drop(gone)
  for _, place in ipairs(gone) do
    local body = call('HGET', bodies, place)
    if body then
      local subject = string.sub(body, 1, string.find(body, '\0', 1, true) - 1)  -- a pattern holds no zero
      if subject ~= '' then call('ZREM', subjects, subject .. '\0' .. place) end
      call('HDEL', bodies, place)
    end
    call('ZREM', places, place)
  end
end

for i = 3, #ARGV, 3 do
  local place, subject, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  call('ZADD', places, 0, place)
  call('HSET', bodies, place, subject .. '\0' .. body)
  if subject ~= '' then call('ZADD', subjects, 0, subject .. '\0' .. place) end
end

-- In bites: the next call goes on.
drop(call('ZRANGEBYLEX', places, '-', '(' .. ARGV[1], 'LIMIT', 0, 500))
local more = call('ZCARD', places) - tonumber(ARGV[2])
if more > 0 then drop(call('ZRANGE', places, 0, math.min(more, 2000) - 1)) end
