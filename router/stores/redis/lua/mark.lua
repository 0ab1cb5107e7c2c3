-- Bytes of an answer are about to be relayed: should its lease run out from now on, the worst case is charged.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id
-- Returns  1 marked   -1 it is not held: its lease has run out, or a restart of Redis has lost it
local key = P .. ':hold:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return -1 end
redis.call('HDEL', key, 'none') -- a first write that needs no memory, so that the next one is let through
redis.call('HSET', key, 'sent', '1')
return 1
