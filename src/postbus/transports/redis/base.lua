-- Time, names and bells, behind head.lua.
local function server_clock()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function clock()
  return given_now or server_clock()
end

-- '{postbus/orders.order}:s' -> '{postbus/orders.order}', and the topic and the namespace in it
local function tag_of(stream)
  return string.sub(stream, 1, -3)
end

-- At most one ring in 10 ms, unless somebody found nothing since the last one.
local function rests(rung, now)
  return not rung or now - tonumber(rung) > 10 or now < tonumber(rung)
end

local function ring_now(hash, channel, message, now)
  call('HSET', hash, 'bell', now)
  call(PUBLISH, channel, message)
end

local function ring(hash, channel, message, now)
  if rests(call('HGET', hash, 'bell'), now) then ring_now(hash, channel, message, now) end
end

local function channel_of(tag)
  if PUBLISH == 'SPUBLISH' then return tag .. ':bell' end
  return '{' .. string.match(tag, '^{(.-)/') .. '}:bell'
end

local function topic_of(tag)
  return string.match(tag, '/(.*)}$')
end
