-- What every script of a topic begins with.  Keys: docs/redis.md.
local call = redis.call

local function clock()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- '{postbus/orders.order}:s' -> '{postbus/orders.order}', and the topic and the namespace in it
local function tag_of(stream)
  return string.sub(stream, 1, -3)
end

-- Padded, ids of a stream sort as text in the order of append.
local function padded(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.format('%013.0f-%06.0f', tonumber(ms), tonumber(seq))
end

-- What is known of a delivery in the subscription's own store.
local function meta(attempt, fence, alone, due, owner)
  return string.format('%d %.0f %d %.0f %s', attempt, fence, alone, due, owner)
end

local function read_meta(text)
  local attempt, fence, alone, due, owner = string.match(text, '^(%d+) (%d+) (%d) (%d+) (.*)$')
  return tonumber(attempt), tonumber(fence), alone == '1', tonumber(due), owner
end

-- Several texts in one, each behind its length.
local function join_all(texts)
  local out = {}
  for i, text in ipairs(texts) do out[i] = #text .. ':' .. text end
  return table.concat(out)
end

local function join(...)
  return join_all({...})
end

local function split(text)
  local out, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local last = colon + tonumber(string.sub(text, at, colon - 1))
    out[#out + 1] = string.sub(text, colon + 1, last)
    at = last + 1
  end
  return out
end

-- name, key, envelope, due of a stream's entry; an entry that somebody else wrote keeps all its fields
local function entry_of(fields, tag)
  if fields[1] == 'n' and fields[3] == 'k' and fields[5] == 'e' then
    if fields[7] == 'd' then
      return fields[2], fields[4], fields[6], tonumber(fields[8])
    end
    return fields[2], fields[4], fields[6], nil
  end
  local name, key = '', ''
  for i = 1, #fields, 2 do
    if fields[i] == 'name' then name = fields[i + 1] end
    if fields[i] == 'key' and not string.find(fields[i + 1], '\0', 1, true) then key = fields[i + 1] end
  end
  if name == '' then name = string.match(tag, '/(.*)}$') end
  return name, key, '\0' .. join_all(fields), nil
end

-- Whether a first lease lasts, by a row of the group's list of pending entries, and whose it is.
local function lease_of(row)
  local owner, lease = string.match(row[2], '^(.*)|(%d+)$')
  return owner, owner ~= nil and row[3] < tonumber(lease)
end

-- At most one ring in 10 ms, unless somebody found nothing since the last one.
local function ring(hash, channel, message, now)
  local rung = call('HGET', hash, 'bell')
  if not rung or now - tonumber(rung) > 10 or now < tonumber(rung) then
    call('HSET', hash, 'bell', now)
    call('PUBLISH', channel, message)
  end
end

local function channel_of(tag)
  return '{' .. string.match(tag, '^{(.-)/') .. '}:bell'
end

local function topic_of(tag)
  return string.match(tag, '/(.*)}$')
end

local function ring_subscription(tag, sub, now)
  ring(tag .. ':' .. sub .. ':c', channel_of(tag), topic_of(tag) .. '/' .. sub, now)
end

-- Makes a delivery of the own store ready, or due later.
local function make_ready(own, eid, due, now)
  if due > now then
    call('ZADD', own .. ':d', due, eid)
  else
    call('ZADD', own .. ':r', 0, eid)
  end
end

-- A holder of the key is done with it: the next of the key goes on.  Whether there was one.
local function free(own, key, now)
  if call('HINCRBY', own .. ':t', key, -1) > 0 then return false end
  local waiting = call('ZRANGEBYLEX', own .. ':w', '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
  if not waiting then
    call('HDEL', own .. ':t', key)
    return false
  end
  local eid = string.sub(waiting, #key + 2)
  call('ZREM', own .. ':w', waiting)
  call('HSET', own .. ':t', key, 1)
  local _, _, _, due = read_meta(call('HGET', own .. ':m', eid))
  make_ready(own, eid, due, now)
  return true
end

-- Puts a delivery that is in no list where it belongs.
local function place(own, ordered, key, eid, due, now)
  if ordered and key ~= '' then
    if call('HSETNX', own .. ':t', key, 1) == 0 then
      call('ZADD', own .. ':w', 0, key .. '\0' .. eid)
      return
    end
  end
  make_ready(own, eid, due, now)
end

local function keep(own, eid, name, key, envelope, attempt, due, fence)
  call('HSET', own .. ':b', eid, join(name, key, envelope))
  call('HSET', own .. ':m', eid, meta(attempt, fence or 0, 0, due or 0, ''))
end

local function forget(own, eid)
  call('HDEL', own .. ':b', eid)
  call('HDEL', own .. ':m', eid)
end

-- What the subscription wants: names between newlines, then Lua patterns.  Older entries go by what it wanted then.
local function matches(wants, name)
  if string.find(wants[1], '\n' .. name .. '\n', 1, true) then return true end
  for i = 2, #wants do
    if string.find(name, wants[i]) then return true end
  end
  return false
end

local function wanted(T, name, id)
  if T.older then
    local eid = padded(id)
    for _, older in ipairs(T.older) do
      if eid <= older.till then return matches(older.wants, name) end
    end
  end
  local known = T.memo[name]
  if known == nil then
    T.wants = T.wants or cjson.decode(T.wants_text)
    known = matches(T.wants, name)
    T.memo[name] = known
  end
  return known
end

-- What was wanted of entries that its group has not read yet.
local function older_wants(own, text, group, stream)
  if not text or text == '' then return nil end
  local list = cjson.decode(text)
  local last
  if call('EXISTS', stream) == 1 then
    for _, info in ipairs(call('XINFO', 'GROUPS', stream)) do
      if info[2] == group then
        for i = 1, #info, 2 do
          if info[i] == 'last-delivered-id' then last = padded(info[i + 1]) end
        end
      end
    end
  end
  if last and last >= list[#list].till then
    call('HDEL', own .. ':c', 'older')
    return nil
  end
  return list
end
