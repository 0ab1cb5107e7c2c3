-- End a hold with what it really cost. Running it again changes nothing.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id  2 now ms  3 calendar (as in reserve)  4 day as text  5 cost nano-USD  6 prompt tokens
--       7 completion tokens  8 outcome ("settled", "released", "expired")
--       9 who (tenant, team, key, model, joined by \31)  10 held nano-USD  11 tokens held  12 reserved at ms  13 plan
--       14 1: charge even a hold that is not known   0: only one that is, or whose lease has run out
--          -1: only one that still is held, since nothing has been sent yet
-- Returns  1 ended   0 was ended before   2 the lease had run out, the charge is now the real one
--          3 Redis had lost the hold, the cost is charged nevertheless   -1 it is not held, and nothing was charged
local id, now, days, day = ARGV[1], tonumber(ARGV[2]), cjson.decode(ARGV[3]), ARGV[4]
local cost, prompt, completion, outcome = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]

local function done() redis.call('SET', P .. ':done:' .. id, '1', 'PX', 120000) end

local h = read_hold(id)
if h then
  drop(id)
  close(id, h, cjson.decode(h.plan), now, days, day, cost, prompt, completion, outcome, true)
  done()
  return 1
end
if redis.call('EXISTS', P .. ':done:' .. id) == 1 then return 0 end
if ARGV[14] == '-1' then return -1 end

local who, plan = ARGV[9], cjson.decode(ARGV[13])
local gone = redis.call('GET', P .. ':gone:' .. id)
if not gone and (ARGV[14] == '0' or outcome == 'released') then return 0 end
if gone then
  local at, charged = string.match(gone, '(%d+) (%d+)')
  at, charged = tonumber(at), tonumber(charged)
  if outcome == 'released' and charged == 0 then return 0 end
  done()
  local seen = {}
  for _, g in ipairs(plan) do
    if g[2] == 'budget' and not seen[g[1]] then
      seen[g[1]] = true
      if cost > charged then
        spend(g, now, days, id, cost - charged)
      elseif g[7] == '' then
        count(meter(g, now, days), math.floor(at / g[5]), g[6], cost - charged)
      elseif at >= days[g[7]][2] then
        local m = meter(g, now, days)
        count(m, m.slot, g[6], cost - charged)
      end
    end
  end
  redis.call('DEL', P .. ':gone:' .. id)
  local requests = outcome == 'released' and -1 or (charged > 0 and 0 or 1)
  line(day, who, requests, prompt, completion, cost - charged)
  note('hold.late', now, id, {who = who, held = tonumber(ARGV[10]), charged = cost, was_charged = charged})
  return 2
end

done()
local lost = {who = who, amount = tonumber(ARGV[10]), tokens = tonumber(ARGV[11]), at = tonumber(ARGV[12])}
close(id, lost, plan, now, days, day, cost, prompt, completion, outcome, false)
note('hold.recovered', now, id, {who = who, charged = cost, reason = 'a restart of Redis had lost the hold'})
return 3
