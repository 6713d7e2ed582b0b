-- open_queue: make sure that the queue says how long its event stream may grow.
--
-- KEYS[1]  meta
-- Returns  OK
--
-- Mirrors what a BullMQ 5 or 6 Queue writes when it starts.
-- Differences: what is set already stays; `version` is never written.

redis.call('HSETNX', KEYS[1], 'opts.maxLenEvents', DEFAULT_EVENTS_KEPT)
return redis.status_reply('OK')
