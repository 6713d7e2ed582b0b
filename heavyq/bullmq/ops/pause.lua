-- pause: nothing is leased from the queue until it is resumed.
-- Uses: places
--
-- KEYS[1]  meta
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, pause.
-- Differences: for BullMQ 5, which looks for jobs in `paused` now, `wait` goes there without overwriting what it
-- holds; where BullMQ 6 opened the queue last, or none did, nothing moves.

redis.call('HSET', KEYS[1], 'paused', '1')
redis.call('DEL', key('marker'))
local version = redis.call('HGET', KEYS[1], 'version')
if version and string.match(version, '^%D*5%.') then
  join_waiting('paused')
end
emit('paused')
