-- The outcome log is one stream; beside it, whose its entries are: ids by tenant, oldest first, and how many.
local function append(tenant, kind, body)
  local id = redis.call('XADD', P .. ':log', '*', 'k', kind, 'b', body)
  redis.call('RPUSH', P .. ':entries:' .. tenant, id)
  redis.call('ZINCRBY', P .. ':entries', 1, tenant)
  redis.call('INCR', P .. ':entries:\31all')
end

-- Remove up to `over` of the oldest entries of whoever has most; how many. 32 at once, at most half of what it has, so
-- that nobody loses an entry while somebody else has notably more.
local function forget(over)
  local shares = redis.call('ZREVRANGE', P .. ':entries', 0, 1, 'WITHSCORES')
  local tenant, most, second = shares[1], tonumber(shares[2] or 0), tonumber(shares[4] or 0)
  if most == 0 then return 0 end
  local n = math.min(over, math.max(most - second, math.min(32, math.floor(most / 2)), 1))
  local ids = redis.call('LPOP', P .. ':entries:' .. tenant, n)
  if not ids then redis.call('ZREM', P .. ':entries', tenant) return 0 end
  redis.call('XDEL', P .. ':log', unpack(ids))
  redis.call('DECRBY', P .. ':entries:\31all', #ids)
  if most <= #ids then redis.call('ZREM', P .. ':entries', tenant)
  else redis.call('ZINCRBY', P .. ':entries', -#ids, tenant) end
  return #ids
end

-- Keep this many entries of the outcome log; 512 go at once, at most. Those of earlier versions are nobody's and first.
local function shrink(kept)
  local length = redis.call('XLEN', P .. ':log')
  local over = math.min(512, length - kept)
  local nobodys = math.min(over, length - tonumber(redis.call('GET', P .. ':entries:\31all') or 0))
  if nobodys > 0 then over = over - redis.call('XTRIM', P .. ':log', 'MAXLEN', '=', length - nobodys) end
  while over > 0 do
    local removed = forget(over)
    if removed == 0 then return end
    over = over - removed
  end
end
