-- Append a judgement unless the same is recorded already.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 decision id  2 source  3 what it says  4 replace (0 or 1)  5 most entries to keep  6 body
--       7 key of whoever judges  8 whether it may replace what other keys said (0 or 1)  9 tenant
--       10 most judgements of one answer
-- Returns  {1} appended   {0} the same is recorded   {-1} another one is   {-2} another one is, by another key
--          {-3} it was judged too often
local key = P .. ':judged:' .. ARGV[1]
local known = redis.call('HGET', key, ARGV[2])
local by = redis.call('HGET', key, ARGV[2] .. '\31by')
if known == ARGV[3] then return {0} end
if known and ARGV[4] == '0' then return {-1} end
if known and by and by ~= '' and by ~= ARGV[7] and ARGV[8] == '0' then return {-2} end
if tonumber(redis.call('HGET', key, '\31times') or 0) >= tonumber(ARGV[10]) then return {-3} end
redis.call('HSET', key, ARGV[2], ARGV[3], ARGV[2] .. '\31by', ARGV[7])
redis.call('HINCRBY', key, '\31times', 1)
redis.call('EXPIRE', key, 3024000)
append(ARGV[9], 'f', ARGV[6])
shrink(tonumber(ARGV[5]))
return {1}
