-- Put a hold back that Redis has lost. If bytes may have been sent it is taken whatever is left, else only if it fits:
-- its gateway may come so late that others have the room.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id  2 now ms  3 calendar (as in reserve)  4 expiry ms
--       5 who (tenant, team, key, model, joined by \31)  6 held nano-USD  7 tokens  8 reserved at ms  9 sent (0 or 1)
--       10 plan
-- Returns  1 restored   0 it is there, or has ended   -1 it does not fit any more
local id, now, days = ARGV[1], tonumber(ARGV[2]), cjson.decode(ARGV[3])
local who, amount, tokens, at, plan = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[10]
if redis.call('EXISTS', P .. ':hold:' .. id, P .. ':done:' .. id, P .. ':gone:' .. id) > 0 then return 0 end
local function need_of(g)
  if g[2] == 'budget' then return amount end
  return g[2] == 'tokens' and tokens or 1
end

local gauges = cjson.decode(plan)
for _, g in ipairs(ARGV[9] == '0' and gauges or {}) do
  local m = meter(g, now, days)
  if g[4] == 1 and m.sum + m.held + need_of(g) > g[3] then return -1 end
end
local seen = {}
for _, g in ipairs(gauges) do
  if not seen[g[1]] then
    seen[g[1]] = true
    local m = meter(g, now, days)
    if g[2] == 'budget' or g[2] == 'concurrent' then hold_more(m, need_of(g))
    else count(m, math.floor(at / g[5]), g[6], need_of(g)) end
  end
end
redis.call('HSET', P .. ':hold:' .. id, 'plan', plan, 'who', who,
  'amount', int(amount), 'tokens', int(tokens), 'at', int(at), 'sent', ARGV[9])
redis.call('ZADD', P .. ':leases', ARGV[4], id)
note('hold.restored', now, id, {who = who, held = amount, reason = 'a restart of Redis had lost it'})
return 1
