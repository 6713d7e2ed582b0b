-- resume: jobs are leased from the queue again.
-- Uses: places
--
-- KEYS[1]  meta
-- Returns  nothing
--
-- Mirrors BullMQ 6, resume.
-- Differences: `paused` and `wait` become one list in one step, however long they are.

redis.call('HDEL', KEYS[1], 'paused')
join_waiting('wait')
if redis.call('EXISTS', key('wait'), key('prioritized')) > 0 then
  set_ready_marker()
else
  mark_delayed()
end
emit('resumed')
