-- progress: the job in work says how far it is.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 progress (JSON)
-- Returns  1, or 0: the job is not ours, nothing is written
--
-- Mirrors BullMQ 5 and 6, update progress.
-- Difference: only the holder of the lease may write.

local lease, progress = lease_argument(1), ARGV[6]
if not is_ours(lease) then
  return 0
end
redis.call('HSET', lease.key, 'progress', progress)
emit_and_trim(read_settings(), 'progress', 'jobId', lease.id, 'data', progress)
return 1
