-- Look after leases: renew those that live, end those whose time is up, and tell how this Redis is.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 owner: the gateway's process
--       3 how many of its ended holds need not be known any more, then their decision ids,
--       then pairs of decision id and ms from now to which its lease is renewed
-- Returns  {run id, version of the keys, ms by which the gateway's clock is ahead, maxmemory-policy or "",
--           replication, as INFO says it, addresses of replicas that were seen lately, decision ids that are not held}
local now, skew = clock(whole(1, 'clock', MOST))
local owner, forgotten = ARGV[2], whole(3, 'forgotten', MOST)
for i = 5 + forgotten, #ARGV, 2 do whole(i, 'lease', MOST) end
local run, this = life(now)

redis.call('HDEL', ended_key(owner), 'none', unpack(ARGV, 4, 3 + forgotten)) -- a first write that needs no memory
redis.call('EXPIRE', ended_key(owner), ENDED_S)

local missing = {}
for i = 4 + forgotten, #ARGV, 2 do
  local ends = tonumber(redis.call('HGET', P .. ':hold:' .. ARGV[i], 'ends'))
  if ends then
    redis.call('ZADD', P .. ':leases', 'XX', int(math.min(ends, now + ARGV[i + 1])), ARGV[i])
  else
    missing[#missing + 1] = ARGV[i]
  end
end
if agrees(skew) then sweep(now, this) end

local replication = redis.call('INFO', 'replication')
for host, port in string.gmatch(replication, 'slave%d+:ip=([^,]+),port=(%d+),state=online') do
  local seen = tonumber(redis.call('HGET', P .. ':replicas', host .. ':' .. port))
  if not seen or now - seen > 5000 then redis.call('HSET', P .. ':replicas', host .. ':' .. port, int(now)) end
end
local lately, all = {}, redis.call('HGETALL', P .. ':replicas')
for i = 1, #all, 2 do
  if now - tonumber(all[i + 1]) <= 600000 then lately[#lately + 1] = all[i]
  else redis.call('HDEL', P .. ':replicas', all[i]) end
end
local memory = redis.pcall('INFO', 'memory')
local policy = type(memory) == 'string' and string.match(memory, 'maxmemory_policy:([%a-]+)') or ''
return {run, tonumber(redis.call('HGET', P .. ':meta', 'keys')) or 0, skew, policy, replication, lately, missing}
