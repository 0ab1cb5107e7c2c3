-- Keep an answer: now, whose, its name, its body, for how many milliseconds, and at most how many answers and bytes.
local now = clock(whole(1, 'the time', MOST))
local name, body, ttl = ARGV[3], ARGV[4], whole(5, 'the time to live', MOST)
local most_entries, most_bytes = whole(6, 'answers', MOST), whole(7, 'bytes', MOST)
drop({name})
drop(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', int(now)))
redis.call('SET', P .. ':answer:' .. OWNER .. name, body, 'PX', int(ttl))
redis.call('ZADD', UNTIL, int(now + ttl), name)
redis.call('HSET', SIZES, name, #body)
redis.call('HINCRBY', SIZES, '', #body)
while redis.call('ZCARD', UNTIL) > most_entries or tonumber(redis.call('HGET', SIZES, '')) > most_bytes do
  drop(redis.call('ZRANGE', UNTIL, 0, 0))
end
local ends = math.max(redis.call('PTTL', UNTIL), ttl)
redis.call('PEXPIRE', UNTIL, int(ends))
redis.call('PEXPIRE', SIZES, int(ends))
return 1
