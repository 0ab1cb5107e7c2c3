-- Append a judgement unless the same is recorded already.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id  2 source  3 what it says  4 replace (0 or 1)  5 most entries to keep  6 body
-- Returns  {1} appended   {0} the same is recorded   {-1, what is recorded} another one is
local key = P .. ':judged:' .. ARGV[1]
local known = redis.call('HGET', key, ARGV[2])
if known == ARGV[3] then return {0} end
if known and ARGV[4] == '0' then return {-1, known} end
redis.call('HSET', key, ARGV[2], ARGV[3])
redis.call('EXPIRE', key, 3024000)
redis.call('XADD', P .. ':log', 'MAXLEN', '~', ARGV[5], '*', 'k', 'f', 'b', ARGV[6])
return {1}
