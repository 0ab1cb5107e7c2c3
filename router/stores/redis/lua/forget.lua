-- Forget one answer of an owner's, or all of them; how many there were.
if ARGV[3] then return drop({ARGV[3]}) end
return drop(redis.call('ZRANGE', UNTIL, 0, -1))
