-- The way of one delivery through ack.lua, which says what it is about: it waited behind its key, is done, and another one
-- waits behind it.  Straight on and without a function, as in one.lua.  Whatever is not as usual goes on to ack.lua.
if #ARGV == 9 and ARGV[3] ~= '' and ARGV[5] == '' and ARGV[9] ~= '' then
  local own, id, key = string.sub(KEYS[1], 1, -3) .. ':' .. ARGV[1], ARGV[6], ARGV[9]
  local c = call('HMGET', own .. ':c', 'ordered', 'paused', 'fence', 'shared')
  local waiting = call('ZRANGEBYLEX', own .. ':w', '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
  local following = waiting and string.sub(waiting, #key + 2) or ''
  local metas = call('HMGET', own .. ':m', id, following)
  local fence, owner = string.match(metas[1] or '', '^%d+ (%d+) %d %d+ (.*)$')
  local ends = call('ZSCORE', own .. ':q', id)
  local time = call('TIME')
  local now = given_now or time[1] * 1000 + math.floor(time[2] / 1000)
  local mine = fence == ARGV[7] and owner == ARGV[8] and ends and tonumber(ends) > now
  -- Where each key is held once, it is by this one.
  if mine and waiting and c[1] == '1' and c[2] ~= '1' and c[4] ~= '1' then
    local body = call('HGET', own .. ':b', following)
    local attempt, held, due = string.match(metas[2] or '', '^(%d+) (%d+) %d (%d+) ')
    if body and held and tonumber(due) <= now then
      local by_clock = time[1] * 1000000 + time[2]
      local given = math.max(by_clock, tonumber(c[3] or 0), tonumber(held)) + 1
      call('ZREM', own .. ':q', id)
      call('HDEL', own .. ':b', id)
      call('HDEL', own .. ':m', id)
      call('ZREM', own .. ':w', waiting)
      call('HSET', own .. ':t', key, following)
      call('ZADD', own .. ':q', now + ARGV[3], following)
      call('HSET', own .. ':m', following, string.format('%s %.0f 0 0 %s', attempt, given, ARGV[2]))
      if given > by_clock + 1 then call('HSET', own .. ':c', 'fence', string.format('%.0f', given)) end
      return {'1', string.format('%.0f', given), following, body, tonumber(attempt)}
    end
  end
end
