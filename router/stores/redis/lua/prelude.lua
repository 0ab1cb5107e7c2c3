-- What every script begins with. All keys share the hash tag of KEYS[1], so a script touches one slot.
-- A script checks all arguments and reads all it needs before it writes: one that fails has changed nothing.
-- Numbers are doubles here, whole and exact up to 2^53 (written by %.0f; tostring keeps 14 digits). Nothing is larger:
-- arguments are refused beyond it, a reservation that would go beyond it does not fit, and `add` stops there and says so.
local P = KEYS[1]
local MOST = 9007199254740992
local MOST_TOKENS = 1099511627776 -- 2^40
local FORM = '3' -- of what the scripts write
local DAY_MS = 86400000
local TOLERATED_MS = 5000 -- between a gateway's clock and this one
local GRACE_MS = 2000 -- no reservations after a restart or a promotion, while gateways put back what it lost
local ENDED_S = 3024000 -- how long it is known of a dead gateway's holds that they have ended: 35 days

local function int(x) return string.format('%.0f', x) end

local function refuse(what) error('REFUSED ' .. what, 0) end

-- An argument that is a whole number, 0 to `most`.
local function whole(i, name, most)
  local text = ARGV[i] or 'missing'
  if #text > 16 or not string.find(text, '^%d+$') or tonumber(text) > most then
    refuse(name .. ' is ' .. string.sub(text, 1, 40) .. '; it must be a whole number, 0 to ' .. int(most))
  end
  return tonumber(text)
end

-- Now, by this Redis: it orders the money. `claimed` is the gateway's clock; returns now, and how far that is ahead.
local function clock(claimed)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  return now, claimed - now
end

local function agrees(skew) return math.abs(skew) <= TOLERATED_MS end

-- The civil calendar in UTC, by days since 1970 (Howard Hinnant's algorithms).
local function civil(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return year, month, doy - math.floor((153 * mp + 2) / 5) + 1
end

local function first_of(year, month)
  if month > 12 then year, month = year + 1, month - 12 end
  local y = month <= 2 and year - 1 or year
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * (month > 2 and month - 3 or month + 9) + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end

-- The calendar period that contains a moment: its number, its start and its end.
local function period(calendar, at)
  local day = math.floor(at / DAY_MS)
  if calendar == 'day' then return day, day * DAY_MS, (day + 1) * DAY_MS end
  if calendar == 'week' then -- from Monday; 1970-01-01 was a Thursday
    local week = math.floor((day + 3) / 7)
    return week, (week * 7 - 3) * DAY_MS, (week * 7 + 4) * DAY_MS
  end
  local year, month = civil(day)
  if calendar == 'year' then return year, first_of(year, 1) * DAY_MS, first_of(year + 1, 1) * DAY_MS end
  return year * 12 + month - 1, first_of(year, month) * DAY_MS, first_of(year, month + 1) * DAY_MS
end

local KINDS = {budget = true, requests = true, tokens = true, concurrent = true}
local CALENDARS = {[''] = true, day = true, week = true, month = true, year = true}

local function is_whole(x, most)
  return type(x) == 'number' and x >= 0 and x <= most and x == math.floor(x)
end

-- Whether this is a limit: {counter, kind, limit, hard (0 or 1), slot width ms, past slots that count, calendar or ""}.
local function is_limit(g)
  return type(g) == 'table' and type(g[1]) == 'string' and KINDS[g[2]] and is_whole(g[3], MOST) and is_whole(g[4], 1)
    and is_whole(g[5], MOST) and is_whole(g[6], 1000) and CALENDARS[g[7]] and (g[7] ~= '' or g[5] > 0)
end

-- The limits of a plan, or nil. A script may meet the same one twice: as an argument and in a hold.
local read = {}
local function limits_in(text)
  if read[text] then return read[text] end
  local ok, plan = pcall(cjson.decode, text)
  if not ok or type(plan) ~= 'table' then return nil end
  for place, g in pairs(plan) do
    if type(place) ~= 'number' or not is_limit(g) then return nil end
  end
  read[text] = plan
  return plan
end

local function limits_of(i)
  return limits_in(ARGV[i] or '') or refuse('argument ' .. i .. ' is no list of limits')
end

-- How much of a limit's counter a request asks for.
local function need_of(kind, worst, tokens)
  if kind == 'budget' then return worst end
  return kind == 'tokens' and tokens or 1
end

local function slot_of(g, at)
  if g[7] ~= '' then return (period(g[7], at)) end
  return math.floor(at / g[5])
end

-- A counter as it stands now, read and not written: `t` newest slot, `s` sum over the slots that count, `h` held, and one
-- field for each slot modulo keep + 1. Slots that have left the window since are `stale`.
local function counter(g, now)
  local key, keep, slot = P .. ':counter:' .. g[1], g[6], slot_of(g, now)
  local v = redis.call('HMGET', key, 't', 's', 'h')
  local known, sum, stale = tonumber(v[1]), tonumber(v[2]) or 0, nil
  local moved = not known or slot > known
  if known and moved then
    stale = {}
    for i = math.max(known + 1, slot - keep), slot do stale[#stale + 1] = int(i % (keep + 1)) end
    for _, old in ipairs(redis.call('HMGET', key, unpack(stale))) do sum = sum - (tonumber(old) or 0) end
  end
  return {key = key, keep = keep, limit = g, slot = moved and slot or known, sum = sum, held = tonumber(v[3]) or 0,
    stale = stale, moved = moved}
end

local function is_stale(c, field)
  for _, each in ipairs(c.stale or {}) do
    if each == field then return true end
  end
  return false
end

-- What a field of a slot counts now.
local function counted(c, field)
  return not is_stale(c, field) and tonumber(redis.call('HGET', c.key, field)) or 0
end

-- Add to a slot, once in a script, if it still counts; less than nothing is never left, and more than 2^53 never counted.
local function add(c, slot, amount)
  if amount == 0 or slot > c.slot or slot < c.slot - c.keep then return end
  c.field = int(slot % (c.keep + 1))
  if amount < 0 then
    amount = -math.min(-amount, counted(c, c.field), c.sum)
  elseif amount > MOST - c.sum then
    c.over, amount = amount, MOST - c.sum
  end
  c.sum, c.added = c.sum + amount, amount
end

local function hold(c, amount)
  c.held, c.holds = math.max(0, math.min(MOST, c.held + amount)), true
end

-- Write a counter that has changed. The first write may need memory: where there is none, Redis refuses it all.
local function save(c)
  local key = c.key
  if c.moved then
    local g = c.limit
    redis.call('HSET', key, 't', int(c.slot), 's', int(c.sum), 'h', int(c.held))
    if c.stale then redis.call('HDEL', key, unpack(c.stale)) end
    redis.call('EXPIRE', key, int(86400 + (g[7] == '' and math.ceil(g[5] * (c.keep + 2) / 1000) or 31968000)))
  elseif c.added and c.holds then redis.call('HSET', key, 's', int(c.sum), 'h', int(c.held))
  elseif c.added then redis.call('HSET', key, 's', int(c.sum))
  elseif c.holds then redis.call('HSET', key, 'h', int(c.held)) end
  if c.added then redis.call('HINCRBY', key, c.field, int(c.added)) end
end

local function as_json(detail)
  local parts = {}
  for name, value in pairs(detail) do
    local text = type(value) == 'number' and int(value) or cjson.encode(value) -- cjson keeps 14 digits
    parts[#parts + 1] = cjson.encode(name) .. ':' .. text
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function note(kind, at, subject, detail)
  local kept = redis.call('HGET', P .. ':meta', 'audit') or '100000'
  redis.call('XADD', P .. ':audit', 'MAXLEN', '~', kept, '*',
    'at', int(at), 'kind', kind, 'subject', subject, 'detail', as_json(detail))
end

-- What the audit log should show of a counter that has been charged.
local function note_counter(c, before, at, id)
  local g = c.limit
  if c.over then note('counter.full', at, id, {counter = g[1], not_counted = c.over - (c.sum - before), most = MOST}) end
  for _, percent in ipairs(g[4] == 0 and {80, 100} or {}) do
    if before * 100 < g[3] * percent and c.sum * 100 >= g[3] * percent then
      note('budget.' .. percent .. '%', at, id, {budget = g[1], spent = c.sum, limit = g[3]})
    end
  end
end

-- Add to a line of spend. Sums beyond 2^63 are refused by Redis, and said. `parts`: kinds of tokens, "cached 120 …".
local function spend(at, who, requests, prompt, completion, cost, parts)
  local day = math.floor(at / DAY_MS)
  local key = P .. ':spend:' .. string.format('%04d-%02d-%02d', civil(day))
  local fresh = redis.call('EXISTS', key) == 0
  local amounts = {r = requests, p = prompt, c = completion, n = cost}
  for kind, tokens in string.gmatch(parts or '', '([%l%d_]+) (%d+)') do amounts[kind] = tonumber(tokens) end
  for name, amount in pairs(amounts) do
    if amount ~= 0 then
      local done = redis.pcall('HINCRBY', key, who .. '\31' .. name, int(amount))
      if type(done) == 'table' then note('spend.full', at, who, {field = name, not_counted = amount}) end
    end
  end
  if fresh then redis.call('EXPIRE', key, 34560000) end
end

-- The counters of these limits, one each, in order.
local function counters(limits, now)
  local found, seen = {}, {}
  for _, g in ipairs(limits) do
    local known = seen[g[1]]
    if not known then
      known = counter(g, now)
      seen[g[1]] = known
      found[#found + 1] = known
    elseif g[4] == 0 then
      known.limit = g -- a soft limit beside a hard one: its crossing is said
    end
  end
  return found
end

-- A hold: nil where there is none, false where it cannot be read.
local function read_hold(id)
  local v = redis.call('HMGET', P .. ':hold:' .. id, 'plan', 'who', 'amount', 'tokens', 'at', 'sent', 'owner', 'life')
  if not (v[1] or v[2] or v[6]) then return nil end
  local h = {who = v[2], amount = tonumber(v[3]), tokens = tonumber(v[4]), at = tonumber(v[5]), sent = v[6] == '1',
    owner = v[7], life = v[8], limits = v[1] and limits_in(v[1])}
  local is_sound = h.limits and h.who and h.owner and is_whole(h.amount, MOST) and is_whole(h.tokens, MOST) and h.at
  return is_sound and h or false
end

local function drop(id)
  redis.call('DEL', P .. ':hold:' .. id)
  redis.call('ZREM', P .. ':leases', id)
end

local function ended_key(owner) return P .. ':ended:' .. owner end

-- End a hold on its counters, with `e` (cost, tokens, outcome, when). Its counters are read before the first write. That write frees memory,
-- so that Redis lets all others through however little memory is left: what has been spent must be written.
-- `remembered` is what its gateway will be said of it; `carried`: whether the counters have the hold.
local function finish(id, h, now, e, remembered, carried)
  local found, before = counters(h.limits, now), {}
  local requests = e.outcome == 'released' and 0 or 1
  local tokens = requests * (e.outcome == 'settled' and e.prompt + e.completion or h.tokens)
  for i, c in ipairs(found) do
    local kind = c.limit[2]
    before[i] = c.sum
    if kind == 'budget' then
      if carried then hold(c, -h.amount) end
      add(c, e.at < now and slot_of(c.limit, e.at) or c.slot, e.cost)
    elseif kind == 'concurrent' then
      if carried then hold(c, -1) end
    else
      local slot = math.floor(h.at / c.limit[5])
      if kind == 'tokens' then add(c, slot, tokens - (carried and h.tokens or 0))
      else add(c, slot, requests - (carried and 1 or 0)) end
    end
  end
  drop(id)
  redis.call('HSET', ended_key(h.owner), id, remembered)
  for i, c in ipairs(found) do
    save(c)
    if c.limit[2] == 'budget' then note_counter(c, before[i], now, id) end
  end
  if e.outcome ~= 'released' then spend(e.at, h.who, 1, e.prompt, e.completion, e.cost, e.parts) end
  if e.cost > h.amount then note('hold.over', now, id, {who = h.who, held = h.amount, charged = e.cost}) end
end

-- Which life this Redis is in: it has a new one when it has restarted or a replica was promoted, and may have lost what
-- came last. Returns its run id; the life; and of it `opens`, the moment from which reservations are taken, and `doubt`:
-- of holds from before that life it is not known what was sent, since a promoted replica may have been far behind.
local function life(now)
  local server = redis.call('INFO', 'server')
  local _, at = string.find(server, 'run_id:', 1, true)
  local run = string.sub(server, at + 1, at + 40)
  local meta = redis.call('HMGET', P .. ':meta', 'run', 'life', 'opens', 'doubt')
  local number, opens, doubt = tonumber(meta[2]) or 0, tonumber(meta[3]) or 0, tonumber(meta[4]) or 0
  if meta[1] ~= run then
    number, opens = number + 1, meta[1] and now + GRACE_MS or 0
    if string.match(redis.call('INFO', 'replication'), 'second_repl_offset:%d') then doubt = number end
    redis.call('DEL', P .. ':replicas') -- a first write that needs no memory
    redis.call('HSET', P .. ':meta', 'form', FORM, 'run', run, 'life', int(number), 'opens', int(opens), 'doubt', int(doubt))
  end
  return run, {number = int(number), opens = opens, doubt = doubt}
end

-- End the holds whose lease has run out: the worst case is charged if bytes had been sent, nothing otherwise. Where that
-- is in doubt their gateway may tell until reservations are taken again; then the worst case is charged too.
local function sweep(now, this)
  local due = redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, 500)
  for i = 1, #due, 2 do
    local id, overdue = due[i], now - tonumber(due[i + 1])
    local h = read_hold(id)
    local unknown = h and not h.sent and (tonumber(h.life) or 0) < this.doubt
    if unknown and now < this.opens then
      h = nil
    elseif not h then
      drop(id)
      if h == false then note('hold.unreadable', now, id, {reason = 'something else has written there'}) end
    end
    if h then
      local e = {cost = (h.sent or unknown) and h.amount or 0, prompt = 0, completion = 0, at = now,
        outcome = (h.sent or unknown) and 'expired' or 'released'}
      finish(id, h, now, e, int(now) .. ' ' .. int(e.cost), true)
      redis.call('EXPIRE', ended_key(h.owner), ENDED_S)
      note('hold.' .. e.outcome, now, id, {who = h.who, held = h.amount, charged = e.cost, overdue_ms = overdue,
        reason = unknown and 'a replica was promoted, and its gateway did not come back: what was sent is not known'
          or 'the lease ran out'})
    end
  end
end
