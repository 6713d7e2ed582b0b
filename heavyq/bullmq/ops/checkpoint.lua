-- checkpoint: keep what the job in work would need to go on after a stop.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 checkpoint (JSON)
-- Returns  1, or 0: the job is not ours, nothing is written
--
-- Mirrors no script of BullMQ, which has no checkpoints.

local lease, checkpoint = lease_argument(1), ARGV[6]
if not is_ours(lease) then
  return 0
end
redis.call('HSET', lease.key, 'hq:checkpoint', checkpoint)
return 1
