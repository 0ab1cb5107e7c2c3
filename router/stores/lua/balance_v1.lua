-- What is spent and held of each gauge.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 now ms  2 calendar (as in reserve)  3 day as text  4 gauges (JSON, as in reserve)
-- Returns  {spent, held, wait ms until one nano-USD more is free, …}
local now, days = tonumber(ARGV[1]), cjson.decode(ARGV[2])
sweep(now, days, ARGV[3])
local found = {}
for _, g in ipairs(cjson.decode(ARGV[4])) do
  local m = meter(g, now, days)
  local ms
  if g[7] ~= '' then
    ms = days[g[7]][3] - now
  else
    ms = (m.slot + g[6] + 1) * g[5] - now
    local over = math.max(1, m.sum + m.held + 1 - g[3])
    for slot = m.slot - g[6], m.slot do
      over = over - (tonumber(redis.call('HGET', m.key, int(slot % (g[6] + 1)))) or 0)
      if over <= 0 then ms = (slot + g[6] + 1) * g[5] - now break end
    end
  end
  found[#found + 1] = m.sum
  found[#found + 1] = m.held
  found[#found + 1] = math.max(1, ms)
end
return found
