-- reprocess: a job that is over waits again.
-- Uses: parents places requeue
--
-- KEYS[1]  meta
-- ARGV     1 id  2 'failed' or 'completed': where it is  3 '1': count its attempts anew, else '0'
-- Returns  'done', 'gone', or the state that it is in instead
--
-- Mirrors BullMQ 6, reprocess job.
-- Differences: what heavyq knows of its runs goes with their count.

local id, set, reset = ARGV[1], ARGV[2], ARGV[3] == '1'
if not job_exists(id) or not redis.call('ZSCORE', key(set), id) then
  return misplaced(id)
end
run_again(read_settings(), id, set, reset, asks_lifo(id))
return 'done'
