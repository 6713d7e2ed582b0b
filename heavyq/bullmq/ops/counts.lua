-- counts: how many jobs are in each state.
--
-- KEYS[1]  meta
-- Returns  {1 if the queue is paused else 0, waiting, active, delayed, prioritized, waiting-children, completed,
--          failed}
--
-- Mirrors BullMQ 6, get counts.
-- Differences: what BullMQ 5 keeps in `paused` is waiting too.

return {
  redis.call('HEXISTS', KEYS[1], 'paused'),
  redis.call('LLEN', key('wait')) + redis.call('LLEN', key('paused')),
  redis.call('LLEN', key('active')),
  redis.call('ZCARD', key('delayed')),
  redis.call('ZCARD', key('prioritized')),
  redis.call('ZCARD', key('waiting-children')),
  redis.call('ZCARD', key('completed')),
  redis.call('ZCARD', key('failed')),
}
