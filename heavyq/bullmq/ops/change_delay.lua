-- change_delay: a delayed job comes due at another moment.
-- Uses: places
--
-- KEYS[1]  meta
-- ARGV     1 id  2 now (ms)  3 delay (ms)
-- Returns  'done', 'gone', or the state that it is in instead
--
-- Mirrors BullMQ 5 and 6, change delay.

local id, now_ms, delay_ms = ARGV[1], number_argument(2), number_argument(3)
if not job_exists(id) or not redis.call('ZSCORE', key('delayed'), id) then
  return misplaced(id)
end
local due_ms = now_ms + delay_ms
redis.call('HSET', key(id), 'delay', digits(delay_ms))
push_delayed(id, due_ms) -- moves it
emit_and_trim(read_settings(), 'delayed', 'jobId', id, 'delay', digits(due_ms))
mark_delayed()
return 'done'
