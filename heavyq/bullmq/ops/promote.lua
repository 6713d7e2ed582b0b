-- promote: a delayed job waits no longer for its moment.
-- Uses: places requeue
--
-- KEYS[1]  meta
-- ARGV     1 id
-- Returns  'done', 'gone', or the state that it is in instead
--
-- Mirrors BullMQ 5 and 6, promote.

local id = ARGV[1]
if not job_exists(id) or not redis.call('ZSCORE', key('delayed'), id) then
  return misplaced(id)
end
local settings = read_settings()
place_again(settings, id, false)
redis.call('ZREM', key('delayed'), id)
redis.call('HSET', key(id), 'delay', '0')
mark_ready(settings)
emit('waiting', 'jobId', id, 'prev', 'delayed')
return 'done'
