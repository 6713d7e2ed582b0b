-- unschedule: remove a job scheduler and the job that it has planned.
--
-- KEYS[1]  meta
-- ARGV     1 scheduler id
-- Returns  1, or 0 if there is no such scheduler
--
-- Mirrors BullMQ 5 and 6, remove job scheduler. As there, a planned job that waits to be run already is run.

local scheduler_id = ARGV[1]
local planned = redis.call('ZSCORE', key('repeat'), scheduler_id)
if not planned then
  return 0
end
local id = 'repeat:' .. scheduler_id .. ':' .. planned
if redis.call('ZREM', key('delayed'), id) == 1 then
  delete_job(id)
  emit('removed', 'jobId', id, 'prev', 'delayed')
end
redis.call('ZREM', key('repeat'), scheduler_id)
redis.call('DEL', key('repeat:' .. scheduler_id))
return 1
