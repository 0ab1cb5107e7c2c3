-- Take a hold on the first offer that fits every gauge.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id  2 now ms  3 calendar (JSON: day, week, month, year -> [slot, start ms, end ms])  4 day as text
--       5 expiry ms  6 grace ms after a restart  7 who (tenant, team, key, joined by \31)
--       then for each offer: model, worst nano-USD, tokens, plan (JSON: one
--       [meter, kind, limit, hard (0 or 1), slot width ms, slots kept, calendar or ""] for each gauge)
-- Returns  {i, edition, used…}                    offer i fits; edition of the keys; used of each of its gauges,
--                                                 this request included
--          {0, i, gauge, used, need, wait ms}     none fits; offer i would first, and this gauge stands in its way longest
--          {-1, ms}                               Redis has just restarted: holds are being restored, come back later
--          {-2}                                   this decision id has a hold already
local id, now, days = ARGV[1], tonumber(ARGV[2]), cjson.decode(ARGV[3])

local run = run_id()
local meta = redis.call('HMGET', P .. ':meta', 'run', 'opens', 'keys')
if meta[1] ~= run then
  local opens = meta[1] and now + tonumber(ARGV[6]) or 0
  redis.call('HSET', P .. ':meta', 'run', run, 'opens', int(opens))
  meta[2] = int(opens)
end
if redis.call('EXISTS', P .. ':hold:' .. id) == 1 then return {-2} end
if now < tonumber(meta[2]) then return {-1, tonumber(meta[2]) - now} end

local first = redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', int(now), 'LIMIT', 0, 1)
if #first > 0 then sweep(now, days, ARGV[4]) end

local function need_of(kind, worst, tokens)
  if kind == 'budget' then return worst end
  return kind == 'tokens' and tokens or 1
end

-- Milliseconds until `need` fits if nothing else comes.
local function wait(g, m, need)
  if g[2] == 'concurrent' then return 1000 end
  local over = m.sum + m.held + need - g[3]
  if g[7] == '' then
    for slot = m.slot - g[6], m.slot do
      over = over - (tonumber(redis.call('HGET', m.key, int(slot % (g[6] + 1)))) or 0)
      if over <= 0 then return math.max(1, (slot + g[6] + 1) * g[5] - now) end
    end
    return math.max(1, (m.slot + g[6] + 1) * g[5] - now)
  end
  return math.max(1, days[g[7]][3] - now)
end

local best
for i = 1, (#ARGV - 7) / 4 do
  local at = 7 + (i - 1) * 4
  local worst, tokens, text = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), ARGV[at + 4]
  local plan, meters, used, blocked = cjson.decode(text), {}, {i, tonumber(meta[3]) or 0}, nil
  for j, g in ipairs(plan) do
    local m = meters[g[1]] or meter(g, now, days)
    meters[g[1]] = m
    local need = need_of(g[2], worst, tokens)
    local after = m.sum + m.held + need
    used[j + 2] = after
    if after > g[3] and g[4] == 1 then
      local ms = wait(g, m, need)
      if not blocked or ms > blocked[6] then blocked = {0, i, j, after - need, need, ms} end
    end
  end
  if not blocked then
    local counted = {}
    for _, g in ipairs(plan) do
      local m = meters[g[1]]
      if not counted[g[1]] then
        counted[g[1]] = true
        if g[2] == 'budget' then hold_more(m, worst)
        elseif g[2] == 'concurrent' then hold_more(m, 1)
        else count(m, math.max(m.slot, math.floor(now / g[5])), g[6], g[2] == 'tokens' and tokens or 1) end
      end
    end
    redis.call('HSET', P .. ':hold:' .. id, 'plan', text, 'who', ARGV[7] .. '\31' .. ARGV[at + 1],
      'amount', int(worst), 'tokens', int(tokens), 'at', int(now), 'sent', '0')
    redis.call('ZADD', P .. ':leases', ARGV[5], id)
    redis.call('DEL', P .. ':done:' .. id)
    return used
  end
  if not best or blocked[6] < best[6] then best = blocked end
end
return best
