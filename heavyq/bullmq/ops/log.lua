-- log: append rows to the log of the job in work.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 rows to keep, the newest ('': all)  7... rows
-- Returns  1, or 0: the job is not ours, nothing is written
--
-- Mirrors BullMQ 5 and 6, add log.
-- Differences: only the holder of the lease may write; many rows in one call.

local lease, rows = lease_argument(1), key(ARGV[1]) .. ':logs'
local keep = ARGV[6] ~= '' and number_argument(6)
if not is_ours(lease) then
  return 0
end
for n = 7, #ARGV, BATCH do
  redis.call('RPUSH', rows, unpack(ARGV, n, math.min(n + BATCH - 1, #ARGV)))
end
if keep == 0 then
  redis.call('DEL', rows)
elseif keep then
  redis.call('LTRIM', rows, -keep, -1)
end
return 1
