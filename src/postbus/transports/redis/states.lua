-- How a subscription stands with some entries.  KEYS: stream.  ARGV: subscription, padded ids.
-- Returns for each its state, or '' when the subscription is done with it.
local now = clock()
local stream = KEYS[1]
local tag = tag_of(stream)
local own = tag .. ':' .. ARGV[1]
local c = call('HMGET', own .. ':c', 'group', 'wants', 'older')
local T = {memo = {}, wants_text = c[2], older = c[3] and c[3] ~= '' and cjson.decode(c[3]) or nil}
local info = group_of(stream, c[1])
local last = info and padded(info['last-delivered-id'])

local function kept(eid)
  if call('HEXISTS', own .. ':b', eid) == 0 then return nil end
  local leased = call('ZSCORE', own .. ':q', eid)
  if leased then return tonumber(leased) > now and 'running' or 'ready' end
  local scores = {retrying = ':r', scheduled = ':d', suspect = ':u'}
  for state, part in pairs(scores) do
    local due = call('ZSCORE', own .. part, eid)
    if due then
      if tonumber(due) <= now then return 'ready' end
      return state == 'suspect' and 'retrying' or state
    end
  end
  return 'waiting'
end

local function in_stream(eid)
  if not last then return '' end
  local found = call('XRANGE', stream, eid, eid)[1]
  if not found then return '' end
  if eid > last then
    local name, _, _, due = entry_of(found[2], tag)
    if not wanted(T, name, found[1]) then return '' end
    return due and due > now and 'scheduled' or 'ready'
  end
  local row = call('XPENDING', stream, c[1], eid, eid, 1)[1]
  if not row then return '' end
  local _, ends = lease_of(row, now)
  return ends <= now and 'ready' or 'running'
end

local out = {}
for i = 2, #ARGV do
  out[#out + 1] = kept(ARGV[i]) or (call('HEXISTS', own .. ':x', ARGV[i]) == 1 and 'dead') or in_stream(ARGV[i])
end
return out
