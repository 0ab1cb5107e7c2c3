-- Look after leases: mark holds whose answer has begun, renew those that live, end those whose time is up.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 now ms  2 calendar (as in reserve)  3 day as text  4 number of marks, then the marked decision ids,
--       then pairs of decision id and new expiry ms
-- Returns  {run id of this Redis, edition of the keys, decision ids that are not held…}
local now, marks = tonumber(ARGV[1]), tonumber(ARGV[4])
local missing = {}
for i = 5, 4 + marks do
  local key = P .. ':hold:' .. ARGV[i]
  if redis.call('EXISTS', key) == 1 then redis.call('HSET', key, 'sent', '1') end
end
for i = 5 + marks, #ARGV, 2 do
  if redis.call('EXISTS', P .. ':hold:' .. ARGV[i]) == 1 then
    redis.call('ZADD', P .. ':leases', 'XX', ARGV[i + 1], ARGV[i])
  else
    missing[#missing + 1] = ARGV[i]
  end
end
sweep(now, cjson.decode(ARGV[2]), ARGV[3])
return {run_id(), tonumber(redis.call('HGET', P .. ':meta', 'keys') or 0), unpack(missing)}
