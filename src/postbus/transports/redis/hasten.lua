-- Makes retries due now, or lets go of them for good.  KEYS: stream.  ARGV: subscription, 'run' or 'discard', padded ids.
-- Returns how many there were; what is due already is none.
local now = clock()
local tag = tag_of(KEYS[1])
local own = tag .. ':' .. ARGV[1]
local ordered = call('HGET', own .. ':c', 'ordered') == '1'
local count, ready = 0, false
begin_even_if_full(own)

local function waits_in(eid)
  for _, zset in ipairs({own .. ':r', own .. ':u'}) do
    local due = call('ZSCORE', zset, eid)
    if due and tonumber(due) > now then return zset end
  end
end

for i = 3, #ARGV do
  local eid = ARGV[i]
  local zset = waits_in(eid)
  if zset then
    count = count + 1
    if ARGV[2] == 'run' then
      call('ZADD', zset, 0, eid)
      ready = true
    else
      local body = call('HGET', own .. ':b', eid)
      local key = body and split(body)[2] or ''
      call('ZREM', zset, eid)
      forget(own, eid)
      if ordered and key ~= '' then ready = free(own, key, now) or ready end
    end
  end
end
if ready then ring_subscription(tag, ARGV[1], now) end
return count
