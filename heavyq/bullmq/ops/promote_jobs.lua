-- promote_jobs: delayed jobs wait no longer for their moments.
-- Uses: requeue
--
-- KEYS[1]  meta
-- ARGV     1 how many
-- Returns  1 if there are more, else 0
--
-- Mirrors BullMQ 5 and 6, move jobs to wait, of the delayed ones.
-- Differences: a job's priority counts, and its `delay` is 0 then; an id without a job is dropped.

local most = number_argument(1)
local ids = redis.call('ZRANGE', key('delayed'), 0, most - 1)
local settings = read_settings()
for _, id in ipairs(ids) do
  if not job_exists(id) then
    redis.call('ZREM', key('delayed'), id)
  else
    place_again(settings, id, false)
    redis.call('ZREM', key('delayed'), id)
    redis.call('HSET', key(id), 'delay', '0')
    mark_ready(settings)
    emit_and_trim(settings, 'waiting', 'jobId', id, 'prev', 'delayed')
  end
end
return redis.call('EXISTS', key('delayed'))
