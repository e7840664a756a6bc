-- Lets go of what no group needs.  KEYS: stream.
-- ARGV: ms for which history is kept ('' when it is not asked for), ms between two trims, '1' to trim to the entry.
local stream = KEYS[1]
local tag = tag_of(stream)
local topic = tag .. ':c'
local now = clock()
local c = call('HMGET', topic, 'trimmed_at', 'retain', 'tidied_at', 'counted_at')
begin_even_if_full(tag)
if ARGV[1] ~= '' and ARGV[1] ~= c[2] then
  call('HSET', topic, 'retain', ARGV[1])
  c[2] = ARGV[1]
end
if c[1] and now - tonumber(c[1]) < tonumber(ARGV[2]) and now >= tonumber(c[1]) then return 0 end
if call('EXISTS', stream) == 0 then return 0 end
local function less(a, b) return padded(a) < padded(b) end
local until_id = nil

local function is_time(last, span)
  return not last or now - tonumber(last) >= span or now < tonumber(last)
end

local tidy = is_time(c[3], 600000)
if tidy then call('HSET', topic, 'tidied_at', string.format('%.0f', now)) end
local about = is_time(c[4], 1000) and fields_of(call('XINFO', 'STREAM', stream)) or nil
if about then call('HSET', topic, 'counted_at', string.format('%.0f', now)) end

-- Each start of a worker makes a consumer of its own; those that hold nothing and were not seen for an hour go.
local function forget_consumers(name)
  for _, info in ipairs(call('XINFO', 'CONSUMERS', stream, name)) do
    local consumer = fields_of(info)
    if consumer.pending == 0 and consumer.idle > 3600000 then
      call('XGROUP', 'DELCONSUMER', stream, name, consumer.name)
    end
  end
end

-- What a subscription has lost, and from where on it would have to read again if its group were gone.
local function note(group, needs)
  local sub = string.match(group.name, '^(%d+)%-%d+$')
  local own = sub and tag .. ':' .. sub
  if not own or call('HGET', own .. ':c', 'group') ~= group.name then return end
  local lost = unread_trimmed(stream, own, group, about)
  if lost and lost > 0 then call('HSET', own .. ':c', 'unread_trimmed', lost) end
  call('HSET', own .. ':c', 'needs', needs)
end

for _, info in ipairs(call('XINFO', 'GROUPS', stream)) do
  local group = fields_of(info)
  if tidy then forget_consumers(group.name) end
  local needs
  if group.pending > 0 then
    needs = call('XPENDING', stream, group.name)[2]
  else
    local ms, seq = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
    needs = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  end
  if about then note(group, needs) end
  if not until_id or less(needs, until_id) then until_id = needs end
end
local retain = tonumber(c[2] or 0)
-- Nobody takes its events yet, or nobody does after the server lost its memory: those who declare again find them.
if not until_id and retain < 600000 then retain = 600000 end
if retain > 0 then
  local kept = string.format('%.0f-0', math.max(0, now - retain))
  if not until_id or less(kept, until_id) then until_id = kept end
end
call('HSET', topic, 'trimmed_at', string.format('%.0f', now))
if ARGV[3] == '1' then return call('XTRIM', stream, 'MINID', until_id) end
return call('XTRIM', stream, 'MINID', '~', until_id, 'LIMIT', 100000)
