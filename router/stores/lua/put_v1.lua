-- Keep a tenant, a team, a key or a digest, and let every gateway know that keys have changed.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 kind  2 name  3 body
-- Returns  the edition of the keys: it changes with every change of them
redis.call('HSET', P .. ':shelf:' .. ARGV[1], ARGV[2], ARGV[3])
redis.call('ZADD', P .. ':names:' .. ARGV[1], 0, ARGV[2])
return redis.call('HINCRBY', P .. ':meta', 'keys', 1)
