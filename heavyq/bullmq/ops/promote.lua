-- promote: a delayed job waits no longer for its moment.
-- Uses: places requeue
--
-- KEYS[1]  meta
-- ARGV     1 id
-- Returns  'done', 'gone', or the state that it is in instead
--
-- Mirrors BullMQ 5 and 6, promote.

local id = ARGV[1]
if not job_exists(id) or redis.call('ZREM', key('delayed'), id) == 0 then
  return misplaced(id)
end
place_again(read_settings(), id, false)
emit('waiting', 'jobId', id, 'prev', 'delayed')
redis.call('HSET', key(id), 'delay', '0')
return 'done'
