-- A single event's way through append.lua, which says what it is about.  Straight on and without a function, because what
-- a script defines is made anew at each call, and that would take as long as all the rest.
-- KEYS: as there, with one set.  ARGV: version, 'one', the id, name, key, envelope, delay.
if ARGV[2] == 'one' then
  local stream, topic = KEYS[1], KEYS[2]
  local c = call('HMGET', topic, 'version', 'bell')
  if c[1] ~= ARGV[1] then return {c[1] or ''} end
  if call('SADD', KEYS[5], ARGV[3]) == 0 then return '0' end
  local now = given_now
  if not now then
    local t = call('TIME')
    now = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  if ARGV[7] == '' then
    call('XADD', stream, '*', 'n', ARGV[4], 'k', ARGV[5], 'e', ARGV[6])
  else
    local due = string.format('%.0f', now + ARGV[7])
    call('XADD', stream, '*', 'n', ARGV[4], 'k', ARGV[5], 'e', ARGV[6], 'd', due)
  end
  local kept = call('ZSCORE', KEYS[3], KEYS[5])
  if kept and tonumber(kept) >= now + 660000 then
    local rung = tonumber(c[2])
    if not rung or now - rung > 10 or now < rung then
      local tag = string.sub(stream, 1, -3)
      local channel = PUBLISH == 'SPUBLISH' and tag or '{' .. string.match(tag, '^{(.-)/') .. '}'
      call('HSET', topic, 'bell', now)
      call(PUBLISH, channel .. ':bell', string.match(tag, '/(.*)}$'))
    end
    return '1'
  end
end
