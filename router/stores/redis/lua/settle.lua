-- End a hold with what it really cost. Running it again changes nothing.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 decision id  3 owner: the process that took the hold  4 cost nano-USD
--       5 prompt tokens  6 completion tokens  7 outcome ("settled", "released", "expired")
--       8 who (tenant, team, key, model, joined by \31)  9 held nano-USD  10 tokens held  11 reserved at ms  12 plan
--       13 settled at ms; 0: now. What Redis hears of late, or again, counts where it belongs
--       14 2: charge even a hold that is not known   1: only one that is, or whose lease has run out
--          0: only one that still is held, since nothing has been sent yet, or that was marked at the same moment
--       15 tokens with a price of their own, by kind: "cached 120 reasoning 40"
-- Returns  1 ended   0 was ended before   2 the lease had run out, the charge is now the real one
--          3 Redis had lost the hold, the cost is charged nevertheless   -1 it is not held, and nothing was charged
local now = clock(whole(1, 'clock', MOST))
local id, owner = ARGV[2], ARGV[3]
local e = {cost = whole(4, 'cost', MOST - 1), prompt = whole(5, 'prompt tokens', MOST_TOKENS),
  completion = whole(6, 'completion tokens', MOST_TOKENS), outcome = ARGV[7], parts = ARGV[15]}
for tokens in string.gmatch(e.parts or '', ' (%d+)') do
  if tonumber(tokens) > MOST_TOKENS then refuse('tokens of a kind are ' .. tokens) end
end
if e.outcome ~= 'settled' and e.outcome ~= 'released' and e.outcome ~= 'expired' then refuse('outcome is ' .. e.outcome) end
local lost = {who = ARGV[8], amount = whole(9, 'held', MOST - 1), tokens = whole(10, 'tokens held', MOST_TOKENS),
  at = whole(11, 'reserved at', MOST), owner = owner, limits = limits_of(12)}
local settled, what = whole(13, 'settled at', MOST), whole(14, 'what is charged', 2)
e.at = settled > 0 and math.min(settled, now) or now

local known = read_hold(id)
if known ~= nil then
  finish(id, known or lost, now, e, 's', true)
  return 1
end
local ended = redis.call('HGET', ended_key(owner), id)
if ended == 's' then return 0 end
local at, charged = string.match(ended or '', '^(%d+) (%d+)$') -- its lease had run out then, and that was charged
at, charged = tonumber(at), tonumber(charged)
local is_marked = charged and charged > 0 -- meanwhile: nothing else charges a lease that has run out
if what == 0 and not is_marked then return -1 end
if not ended and (what == 1 or e.outcome == 'released') then return 0 end

if not ended then
  finish(id, lost, now, e, 's', false)
  note('hold.recovered', now, id, {who = lost.who, charged = e.cost, reason = 'Redis had lost the hold'})
  return 3
end

if e.outcome == 'released' and charged == 0 then return 0 end
local found, before = counters(lost.limits, now), {}
for i, c in ipairs(found) do
  local g = c.limit
  before[i] = c.sum
  if g[2] == 'budget' then
    if e.cost > charged then add(c, c.slot, e.cost - charged)
    else add(c, slot_of(g, at), e.cost - charged) end
  end
end
redis.call('DEL', P .. ':hold:' .. id) -- see finish: a first write that needs no memory
redis.call('HSET', ended_key(owner), id, 's')
for i, c in ipairs(found) do
  save(c)
  if c.limit[2] == 'budget' then note_counter(c, before[i], now, id) end
end
local requests = e.outcome == 'released' and -1 or (charged > 0 and 0 or 1)
spend(charged > 0 and at or now, lost.who, requests, e.prompt, e.completion, e.cost - charged, e.parts)
note('hold.late', now, id, {who = lost.who, held = lost.amount, charged = e.cost, was_charged = charged})
return 2
