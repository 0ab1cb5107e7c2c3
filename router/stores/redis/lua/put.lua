-- Keep a tenant, a team, a key or a digest. Where it was something else before, every gateway must look keys up again.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 kind  2 name  3 body
-- Returns  1 changed   0 new, or as it was
local key = P .. ':records:' .. ARGV[1]
local known = redis.call('HGET', key, ARGV[2])
if known == ARGV[3] then return 0 end
redis.call('HSET', key, ARGV[2], ARGV[3])
redis.call('ZADD', P .. ':names:' .. ARGV[1], 0, ARGV[2])
if not known then return 0 end
redis.call('HINCRBY', P .. ':meta', 'keys', 1)
return 1
