-- What every script of version 1 begins with. All keys share the hash tag of KEYS[1], so a script touches one slot;
-- names of meters and holds are built from it, because a reservation learns only inside which offer it takes.
-- Numbers are doubles here: amounts stay exact up to 2^53 nano-USD, and are written with %.0f (tostring keeps 14 digits).
local P = KEYS[1]

local function int(x) return string.format('%.0f', x) end

-- The slot of now: calendar slots are the caller's, {day, week, month, year} -> {slot, its start ms, its end ms}.
local function slot_of(g, now, days)
  if g[7] ~= '' then return days[g[7]][1] end
  return math.floor(now / g[5])
end

-- A meter is a hash: t newest slot, s sum over the slots that count, h held, and one field for each slot modulo keep + 1.
local function meter(g, now, days)
  local key, slot, keep = P .. ':meter:' .. g[1], slot_of(g, now, days), g[6]
  local ttl = int(86400 + (g[7] == '' and math.ceil(g[5] * (keep + 2) / 1000) or 31968000))
  local v = redis.call('HMGET', key, 't', 's', 'h')
  local m = {key = key, slot = tonumber(v[1]) or slot, sum = tonumber(v[2]) or 0, held = tonumber(v[3]) or 0}
  if slot > m.slot then
    local fields = {}
    for i = math.max(m.slot + 1, slot - keep), slot do fields[#fields + 1] = int(i % (keep + 1)) end
    local old = redis.call('HMGET', key, unpack(fields))
    for i = 1, #fields do m.sum = m.sum - (tonumber(old[i]) or 0) end
    redis.call('HDEL', key, unpack(fields))
    m.slot = slot
    redis.call('HSET', key, 't', int(slot), 's', int(m.sum))
    redis.call('EXPIRE', key, ttl)
  elseif not v[1] then
    redis.call('HSET', key, 't', int(slot))
    redis.call('EXPIRE', key, ttl)
  end
  return m
end

local function hold_more(m, amount)
  m.held = m.held + amount
  redis.call('HSET', m.key, 'h', int(m.held))
end

-- Add to a slot if it still counts; a slot that has left the window is not touched.
local function count(m, slot, keep, amount)
  if slot > m.slot or slot < m.slot - keep then return end
  m.sum = m.sum + amount
  redis.call('HINCRBY', m.key, int(slot % (keep + 1)), int(amount))
  redis.call('HSET', m.key, 's', int(m.sum))
end

local function note(kind, at, subject, detail)
  local kept = redis.call('HGET', P .. ':meta', 'audit') or '100000'
  redis.call('XADD', P .. ':audit', 'MAXLEN', '~', kept, '*',
    'at', int(at), 'kind', kind, 'subject', subject, 'detail', cjson.encode(detail))
end

-- Charge `cost` to a budget's meter and say so when a soft limit is crossed.
local function spend(g, at, days, id, cost)
  local m = meter(g, at, days)
  local before = m.sum
  count(m, m.slot, g[6], cost)
  if g[4] == 0 then
    for _, percent in ipairs({80, 100}) do
      if before * 100 < g[3] * percent and m.sum * 100 >= g[3] * percent then
        note('budget.' .. percent .. '%', at, id, {budget = g[1], spent = m.sum, limit = g[3]})
      end
    end
  end
end

local function line(day, who, requests, prompt, completion, cost)
  local key = P .. ':spend:' .. day
  local fresh = redis.call('EXISTS', key) == 0
  for name, amount in pairs({r = requests, p = prompt, c = completion, n = cost}) do
    if amount ~= 0 then redis.call('HINCRBY', key, who .. '\31' .. name, int(amount)) end
  end
  if fresh then redis.call('EXPIRE', key, 34560000) end
end

-- End a hold on all its meters. `h` is the hold, `plan` its gauges; unheld: whether the meters still carry the hold.
local function close(id, h, plan, at, days, day, cost, prompt, completion, outcome, unheld)
  local seen = {}
  for _, g in ipairs(plan) do
    if not seen[g[1]] then
      seen[g[1]] = true
      local kind = g[2]
      if kind == 'budget' then
        if unheld then hold_more(meter(g, at, days), -h.amount) end
        if cost ~= 0 then spend(g, at, days, id, cost) end
      elseif kind == 'concurrent' then
        if unheld then hold_more(meter(g, at, days), -1) end
      elseif unheld then
        local m = meter(g, at, days)
        local change = 0
        if outcome == 'released' then
          change = kind == 'tokens' and -h.tokens or -1
        elseif kind == 'tokens' and outcome == 'settled' then
          change = prompt + completion - h.tokens
        end
        if change ~= 0 then count(m, math.floor(h.at / g[5]), g[6], change) end
      end
    end
  end
  if outcome ~= 'released' then line(day, h.who, 1, prompt, completion, cost) end
  if cost > h.amount then
    note('hold.over', at, id, {who = h.who, held = h.amount, charged = cost})
  end
end

local function read_hold(id)
  local v = redis.call('HMGET', P .. ':hold:' .. id, 'plan', 'who', 'amount', 'tokens', 'at', 'sent')
  if not v[1] then return nil end
  return {plan = v[1], who = v[2], amount = tonumber(v[3]), tokens = tonumber(v[4]), at = tonumber(v[5]), sent = v[6] == '1'}
end

local function drop(id)
  redis.call('DEL', P .. ':hold:' .. id)
  redis.call('ZREM', P .. ':leases', id)
end

-- End the holds whose lease has run out: the worst case is charged if bytes had been sent, nothing otherwise.
local function sweep(now, days, day)
  local due = redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, 500)
  for i = 1, #due, 2 do
    local id, overdue = due[i], now - tonumber(due[i + 1])
    local h = read_hold(id)
    drop(id)
    if h then
      local cost = h.sent and h.amount or 0
      local outcome = h.sent and 'expired' or 'released'
      close(id, h, cjson.decode(h.plan), now, days, day, cost, 0, 0, outcome, true)
      redis.call('SET', P .. ':gone:' .. id, int(now) .. ' ' .. int(cost), 'PX', 3600000)
      note('hold.' .. outcome, now, id, {who = h.who, held = h.amount, charged = cost, overdue_ms = overdue,
        reason = 'the lease ran out'})
    end
  end
  return #due / 2
end

local function run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

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
