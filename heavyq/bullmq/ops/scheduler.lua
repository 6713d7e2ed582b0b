-- scheduler: one job scheduler.
--
-- KEYS[1]  meta
-- ARGV     1 scheduler id
-- Returns  {its next moment (ms), fields and values of its hash}; nothing if there is none of that id
--
-- Mirrors BullMQ 5 and 6, get job scheduler.

local next_ms = redis.call('ZSCORE', key('repeat'), ARGV[1])
if not next_ms then
  return false
end
return { next_ms, redis.call('HGETALL', key('repeat:' .. ARGV[1])) }
