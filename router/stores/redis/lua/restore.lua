-- Put a hold back that Redis has lost. If bytes may have been sent it is taken whatever is left, and while nobody may
-- reserve; else only if it fits: its gateway may come so late that others have the room.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 decision id  3 owner  4 ms left of the lease  5 ms left until it must end
--       6 who (tenant, team, key, model, joined by \31)  7 held nano-USD  8 tokens  9 reserved at ms  10 sent (0 or 1)
--       11 plan
-- Returns  1 restored   0 it is there, or has ended   -1 it does not fit any more
local now = clock(whole(1, 'clock', MOST))
local id, owner, who = ARGV[2], ARGV[3], ARGV[6]
local lease, longest = whole(4, 'lease', MOST), whole(5, 'longest', MOST)
local amount, tokens = whole(7, 'held', MOST - 1), whole(8, 'tokens', MOST_TOKENS)
local at, sent, limits = whole(9, 'reserved at', MOST), whole(10, 'sent', 1), limits_of(11)
local key = P .. ':hold:' .. id
local _, this = life(now)
if redis.call('EXISTS', key) == 1 then
  redis.call('HDEL', key, 'none') -- a first write that needs no memory
  redis.call('HSET', key, 'life', this.number)
  if sent == 1 then redis.call('HSET', key, 'sent', '1') end
  return 0
end
if redis.call('HGET', ended_key(owner), id) then return 0 end

local found = counters(limits, now)
if sent == 0 and now >= this.opens then
  for _, g in ipairs(limits) do
    local c = counter(g, now)
    if need_of(g[2], amount, tokens) > (g[4] == 1 and g[3] or MOST) - c.sum - c.held then return -1 end
  end
end
redis.call('HDEL', key, 'none') -- a first write that needs no memory
redis.call('HSET', key, 'plan', ARGV[11], 'who', who, 'amount', int(amount), 'tokens', int(tokens), 'at', int(at),
  'sent', int(sent), 'owner', owner, 'life', this.number, 'ends', int(now + longest))
redis.call('ZADD', P .. ':leases', int(now + lease), id)
for _, c in ipairs(found) do
  local kind = c.limit[2]
  if kind == 'budget' or kind == 'concurrent' then hold(c, need_of(kind, amount, tokens))
  else add(c, math.floor(at / c.limit[5]), need_of(kind, amount, tokens)) end
  save(c)
end
note('hold.restored', now, id, {who = who, held = amount, reason = 'a restart of Redis had lost it'})
return 1
