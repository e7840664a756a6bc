-- What the scripts that look at deliveries know, behind base.lua.  Keys: docs/redis.md.

-- A full server allows this, and then what follows it in the script: so a backlog drains and memory is let go of.
local function begin_even_if_full(own)
  call('ZREM', own .. ':q', '')
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
  local attempt, fence, alone, due, owner = string.match(text or '1 0 0 0 ', '^(%d+) (%d+) (%d) (%d+) (.*)$')
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
    if fields[7] == 'd' and string.find(fields[8], '^%d+$') and #fields[8] < 16 then
      return fields[2], fields[4], fields[6], tonumber(fields[8])
    end
    return fields[2], fields[4], fields[6], nil
  end
  local name, key = '', ''
  for i = 1, #fields, 2 do
    if fields[i] == 'name' then name = fields[i + 1] end
    if fields[i] == 'key' and not string.find(fields[i + 1], '\0', 1, true) then key = fields[i + 1] end
  end
  if name == '' then name = string.match(tag, '/([^#}]*)') end
  return name, key, '\0' .. join_all(fields), nil
end

-- Whose a first lease is and when it ends, by a row of the group's list of pending entries.
local function lease_of(row, now)
  local owner, lease = string.match(row[2], '^(.*)|(%d+)$')
  return owner, (given_now and server_clock() or now) - row[3] + tonumber(lease or 0)
end

-- Entries that the group has read are either pending or counted here: so what somebody else took away is found out.
local function count_acked(own, count)
  if count > 0 then call('HINCRBY', own .. ':c', 'acked', count) end
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

-- A holder of the key is done with it.  Returns what holds it now, which is in no list; nil when nobody waited.
-- A held key names the entry that holds it, or says how many do.
local function hand_on(own, key)
  local holders = tonumber(call('HGET', own .. ':t', key) or 1)
  if holders and holders > 1 then
    call('HSET', own .. ':t', key, holders - 1)
    return nil
  end
  local waiting = call('ZRANGEBYLEX', own .. ':w', '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
  if not waiting then
    call('HDEL', own .. ':t', key)
    return nil
  end
  local eid = string.sub(waiting, #key + 2)
  call('ZREM', own .. ':w', waiting)
  call('HSET', own .. ':t', key, eid)
  return eid
end

-- The same, and the next of the key goes on.  Whether there was one.
local function free(own, key, now)
  local eid = hand_on(own, key)
  if not eid then return false end
  local _, _, _, due = read_meta(call('HGET', own .. ':m', eid))
  make_ready(own, eid, due, now)
  return true
end

-- Puts a delivery that is in no list where it belongs.
local function place(own, ordered, key, eid, due, now)
  if ordered and key ~= '' then
    if call('HSETNX', own .. ':t', key, eid) == 0 then
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

local function fields_of(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

-- A group as the server knows it; nil when it is not there.
local function group_of(stream, group)
  if not group or call('EXISTS', stream) == 0 then return nil end
  for _, info in ipairs(call('XINFO', 'GROUPS', stream)) do
    if info[2] == group then return fields_of(info) end
  end
  return nil
end

-- What was wanted of entries that its group has not read yet.
local function older_wants(own, text, group, stream)
  if not text or text == '' then return nil end
  local list = cjson.decode(text)
  local info = group_of(stream, group)
  local last = info and padded(info['last-delivered-id'])
  if last and last >= list[#list].till then
    call('HDEL', own .. ':c', 'older')
    return nil
  end
  return list
end

-- Moves an entry that was read, and whose reader is not heard of, to one of the lists of the own store.
-- It may be one that its reader was about to let go of or to put off, because it was read without the claim script.
local function take_over(T, id, to, now)
  local found = call('XRANGE', T.stream, id, id)[1]
  if found then
    local name, key, envelope, due = entry_of(found[2], T.tag)
    if wanted(T, name, id) then
      local eid = padded(id)
      keep(T.own, eid, name, key, envelope, 1)
      if due and due > now then
        call('ZADD', T.own .. ':d', due, eid)
      else
        call('ZADD', T.own .. to, 0, eid)
      end
    end
  else
    call('HINCRBY', T.own .. ':c', 'trimmed', 1)
    call('HSET', T.own .. ':c', 'stray', '1')  -- nobody knows its key, which it may hold
  end
  count_acked(T.own, call('XACK', T.stream, T.group, id))
end

-- How many entries somebody else removed before this group had read them; nil when it cannot be told now.
-- What was ever added is what was there before the group, what it has read, what it has yet to read, and those.
local function unread_trimmed(stream, own, info, about)
  local c = call('HMGET', own .. ':c', 'base', 'acked')
  if not c[1] or not about['entries-added'] then return nil end
  local unread
  local last = padded(info['last-delivered-id'])
  if about.length == 0 or last >= padded(about['last-entry'][1]) then
    unread = 0
  elseif last < padded(about['first-entry'][1]) then
    unread = about.length
  else
    unread = #call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 100)
    if unread == 100 then return nil end
  end
  return math.max(0, about['entries-added'] - tonumber(c[1]) - tonumber(c[2] or 0) - info.pending - unread)
end
