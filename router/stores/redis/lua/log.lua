-- Append records to the outcome log.
-- KEYS  1 prefix with the hash tag
-- ARGV  1 most entries to keep, then for each record: kind, tenant, decision id, scoped response id or "", body
-- Returns  the number appended
for i = 2, #ARGV, 5 do
  append(ARGV[i + 1], ARGV[i], ARGV[i + 4])
  if ARGV[i] == 'd' then redis.call('SET', P .. ':of:' .. ARGV[i + 2], ARGV[i + 1], 'EX', 3024000) end
  if ARGV[i + 3] ~= '' then redis.call('SET', P .. ':said:' .. ARGV[i + 3], ARGV[i + 2], 'EX', 3024000) end
end
shrink(tonumber(ARGV[1]))
return (#ARGV - 1) / 5
