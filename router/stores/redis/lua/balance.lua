-- What is spent and held of each limit.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 limits (JSON, as in reserve)
-- Returns  {0, spent, held, wait ms until one nano-USD more is free, …}
--          {-3, ms}   the gateway's clock is so far ahead (or behind, below zero)
local now, skew = clock(whole(1, 'clock', MOST))
local limits = limits_of(2)
if not agrees(skew) then return {-3, skew} end
local _, this = life(now)
sweep(now, this)
local found = {0}
for _, g in ipairs(limits) do
  local c = counter(g, now)
  local ms
  if g[7] ~= '' then
    local _, _, ends = period(g[7], now)
    ms = ends - now
  else
    local over = math.max(1, c.sum + c.held + 1 - g[3])
    ms = (c.slot + c.keep + 1) * g[5] - now
    for slot = c.slot - c.keep, c.slot do
      over = over - counted(c, int(slot % (c.keep + 1)))
      if over <= 0 then ms = (slot + c.keep + 1) * g[5] - now break end
    end
  end
  found[#found + 1] = c.sum
  found[#found + 1] = c.held
  found[#found + 1] = math.max(1, ms)
end
return found
