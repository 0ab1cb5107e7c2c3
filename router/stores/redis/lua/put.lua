-- Keep a tenant, a team, a key or a digest. Where it was something else before, every gateway must look keys up again.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 the gateway's clock ms  2 kind  3 name  4 body  5 when it was kept, where it is said again; 0: it is new
-- Returns  when it was kept, by Redis, later than what it replaces; 0 as it was, or something was kept after it
local now = clock(whole(1, 'clock', MOST))
local again = whole(5, 'when', MOST)
local key, name = P .. ':records:' .. ARGV[2], ARGV[2] .. ':' .. ARGV[3]
local known = redis.call('HGET', key, ARGV[3])
local since = tonumber(redis.call('HGET', P .. ':kept', name)) or 0
if known == ARGV[4] or (again > 0 and since >= again) then return 0 end
local at = again > 0 and again or math.max(now, since + 1)
redis.call('HSET', key, ARGV[3], ARGV[4])
redis.call('HSET', P .. ':kept', name, int(at))
redis.call('ZADD', P .. ':names:' .. ARGV[2], 0, ARGV[3])
if known then redis.call('HINCRBY', P .. ':meta', 'keys', 1) end
return at
