-- Take a hold on the first offer that fits every limit.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 decision id  3 owner: the gateway's process  4 lease ms
--       5 longest ms: no renewal leads beyond it  6 who (tenant, team, key, joined by \31)
--       then for each offer: model, worst nano-USD, tokens, plan (JSON: a list of limits, see is_limit)
-- Returns  {i, keys_version, now ms, used…}            offer i fits; version of the keys; used of each of its limits,
--                                                 this request included
--          {0, i, limit, used, need, wait ms}     none fits; offer i would first, and this limit stands in its way longest
--          {-1, ms}                               Redis has just restarted: holds are being restored, come back later
--          {-2}                                   this decision id has a hold already
--          {-3, ms}                               the gateway's clock is so far ahead (or behind, below zero)
local now, skew = clock(whole(1, 'clock', MOST))
local id, owner = ARGV[2], ARGV[3]
local lease, longest = whole(4, 'lease', MOST), whole(5, 'longest', MOST)
local offers = {}
for i = 7, #ARGV, 4 do
  offers[#offers + 1] = {model = ARGV[i], worst = whole(i + 1, 'worst case', MOST - 1),
    tokens = whole(i + 2, 'tokens', MOST_TOKENS), text = ARGV[i + 3], limits = limits_of(i + 3)}
end
if not agrees(skew) then return {-3, skew} end
local _, this = life(now)
if now < this.opens then return {-1, this.opens - now} end

if #redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', int(now), 'LIMIT', 0, 1) > 0 then sweep(now, this) end
if redis.call('EXISTS', P .. ':hold:' .. id) == 1 then return {-2} end

-- Milliseconds until `need` fits if nothing else comes.
local function wait(c, g, need)
  if g[2] == 'concurrent' then return 1000 end
  if g[7] ~= '' then
    local _, _, ends = period(g[7], now)
    return math.max(1, ends - now)
  end
  local over = c.sum + c.held + need - g[3]
  for slot = c.slot - c.keep, c.slot do
    over = over - counted(c, int(slot % (c.keep + 1)))
    if over <= 0 then return math.max(1, (slot + c.keep + 1) * g[5] - now) end
  end
  return math.max(1, (c.slot + c.keep + 1) * g[5] - now)
end

local function take(i, offer, found, used)
  redis.call('HSET', P .. ':hold:' .. id, 'plan', offer.text, 'who', ARGV[6] .. '\31' .. offer.model,
    'amount', int(offer.worst), 'tokens', int(offer.tokens), 'at', int(now), 'sent', '0', 'owner', owner,
    'life', this.number, 'ends', int(now + math.max(lease, longest)))
  redis.call('ZADD', P .. ':leases', int(now + lease), id)
  redis.call('HDEL', ended_key(owner), id)
  for _, c in pairs(found) do
    local kind = c.limit[2]
    if kind == 'budget' then hold(c, offer.worst)
    elseif kind == 'concurrent' then hold(c, 1)
    else add(c, c.slot, need_of(kind, offer.worst, offer.tokens)) end
    save(c)
  end
  return {i, tonumber(redis.call('HGET', P .. ':meta', 'keys')) or 0, now, unpack(used)}
end

local best
for i, offer in ipairs(offers) do
  local found, used, blocked = {}, {}, nil
  for j, g in ipairs(offer.limits) do
    local c = found[g[1]] or counter(g, now)
    found[g[1]] = c
    local need = need_of(g[2], offer.worst, offer.tokens)
    local room = (g[4] == 1 and g[3] or MOST) - c.sum - c.held
    used[j] = math.min(MOST, c.sum + c.held + need)
    if need > room then
      local ms = wait(c, g, need)
      if not blocked or ms > blocked[6] then blocked = {0, i, j, c.sum + c.held, need, ms} end
    end
  end
  if not blocked then return take(i, offer, found, used) end
  if not best or blocked[6] < best[6] then best = blocked end
end
return best or refuse('no offer is given')
