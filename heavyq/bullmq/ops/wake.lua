-- wake: put back the markers that stand for what waits, after one was popped and is not acted on.
--
-- KEYS[1]  meta
-- Returns  OK
--
-- Mirrors no script of BullMQ; it keeps the duty of whoever pops a marker.

if redis.call('EXISTS', key('wait'), key('prioritized')) > 0 then
  mark_ready(read_settings())
end
mark_delayed()
return redis.status_reply('OK')
