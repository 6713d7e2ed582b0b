-- meta: a queue's settings.
--
-- KEYS[1]  meta
-- Returns  fields and values
--
-- Mirrors BullMQ 5 and 6, get meta.

return redis.call('HGETALL', KEYS[1])
