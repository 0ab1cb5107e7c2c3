-- Answers that may be given again. ARGV[2] is whose they are.
local OWNER = ARGV[2]
local UNTIL, SIZES = P .. ':answers:' .. OWNER .. 'until', P .. ':answers:' .. OWNER .. 'sizes'

-- Forget these of them; how many there were.
local function drop(names)
  local gone = 0
  for _, name in ipairs(names) do
    local size = redis.call('HGET', SIZES, name)
    if size then
      redis.call('HINCRBY', SIZES, '', '-' .. size)
      redis.call('HDEL', SIZES, name)
      gone = gone + 1
    end
    redis.call('ZREM', UNTIL, name)
    redis.call('DEL', P .. ':answer:' .. OWNER .. name)
  end
  return gone
end
