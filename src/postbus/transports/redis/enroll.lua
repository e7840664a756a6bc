-- Makes a topic know a subscription as it is declared now, or itself alone.
-- KEYS: stream.  ARGV: subscription ('' for none), wants, ordered, park, paused, where its group begins ('0' or '$').
-- Returns the topic's version, which is another one after each change.
local stream, sub = KEYS[1], ARGV[1]
local tag = tag_of(stream)
local topic = tag .. ':c'
local time = call('TIME')
local micros = time[1] .. string.format('%06d', tonumber(time[2]))
local now = clock()
begin_even_if_full(tag)
local changed = call('HSETNX', topic, 'version', micros) == 1

-- The id before an id: a group that begins there reads that one first.
local function before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if tonumber(seq) > 0 then return ms .. '-' .. string.format('%.0f', tonumber(seq) - 1) end
  if tonumber(ms) == 0 then return '0' end
  return string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
end

-- A new name each time: what was leased under a group that is gone can never be taken for what is leased now.
local function create_group(own, start)
  local group = sub .. '-' .. micros
  call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM')
  call('HSET', own .. ':c', 'group', group, 'sweep_at', 0, 'cursor', '-', 'first_end', 0)
  call('HDEL', own .. ':c', 'acked', 'base')
  local about = fields_of(call('XINFO', 'STREAM', stream))
  if not about['entries-added'] then return end  -- before Redis 7
  if start == '$' then
    call('HSET', own .. ':c', 'base', about['entries-added'])
  elseif start == '0' then
    call('HSET', own .. ':c', 'base', about['entries-added'] - about.length)
  end
end

-- Its group is gone, by somebody else's hand: it goes on from what it needed last, or from the beginning.
-- What it has in its own store is not read again.
local function create_again(own, needs)
  create_group(own, needs and before(needs) or '0')
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then call('HSET', own .. ':c', 'again', padded(last[1])) end
end

-- What was appended before goes by what was wanted then.
local function remember_wants(own, old, older)
  if call('EXISTS', stream) == 0 then return end
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return end
  local list = older and older ~= '' and cjson.decode(older) or {}
  list[#list + 1] = {till = padded(last[1]), wants = cjson.decode(old)}
  while #list > 20 do table.remove(list, 1) end
  call('HSET', own .. ':c', 'older', cjson.encode(list))
end

-- By how many: several may hold one key, and go on beside each other.
local function hold(own, key)
  if key ~= '' then call('HINCRBY', own .. ':t', key, 1) end
end

-- What is under way holds its key from now on.
local function put_in_order(own, group)
  call('HSET', own .. ':c', 'shared', '1')  -- several may hold one key
  local from = '-'
  while true do
    local rows = call('XPENDING', stream, group, from, '+', 500)
    for _, row in ipairs(rows) do
      local found = call('XRANGE', stream, row[1], row[1])[1]
      if found then
        local _, key = entry_of(found[2], tag)
        hold(own, key)
      end
    end
    if #rows < 500 then break end
    from = '(' .. rows[500][1]
  end
  for _, state in ipairs({':q', ':u', ':d', ':r'}) do
    for _, eid in ipairs(call('ZRANGE', own .. state, 0, -1)) do
      hold(own, split(call('HGET', own .. ':b', eid))[2])
    end
  end
end

local function free_order(own)
  for _, waiting in ipairs(call('ZRANGE', own .. ':w', 0, -1)) do
    local eid = string.match(waiting, '%z([^%z]*)$')
    local _, _, _, due = read_meta(call('HGET', own .. ':m', eid))
    make_ready(own, eid, due, now)
  end
  call('DEL', own .. ':w', own .. ':t', own .. ':p')
  call('HDEL', own .. ':c', 'shared')
end

if sub ~= '' then
  local own = tag .. ':' .. sub
  local c = call('HMGET', own .. ':c', 'group', 'wants', 'older', 'ordered', 'park', 'paused', 'needs')
  if not c[1] then
    create_group(own, ARGV[6])
    call('HSETNX', own .. ':c', 'fence', time[1] .. '000')
    changed = true
  elseif not group_of(stream, c[1]) then
    create_again(own, c[7])
    c[1] = call('HGET', own .. ':c', 'group')
    changed = true
  end
  if c[1] and c[2] ~= ARGV[2] then remember_wants(own, c[2], c[3]) end
  if c[1] and c[4] ~= ARGV[3] then
    if ARGV[3] == '1' then put_in_order(own, c[1]) else free_order(own) end
  end
  if c[2] ~= ARGV[2] or c[4] ~= ARGV[3] or c[5] ~= ARGV[4] or c[6] ~= ARGV[5] then
    call('HSET', own .. ':c', 'wants', ARGV[2], 'ordered', ARGV[3], 'park', ARGV[4], 'paused', ARGV[5])
    changed = true
  end
end
if changed then
  call('HSET', topic, 'version', micros)
  if sub ~= '' then call(PUBLISH, channel_of(tag), topic_of(tag) .. '/' .. sub) end
end
return call('HGET', topic, 'version')
