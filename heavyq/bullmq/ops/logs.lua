-- logs: rows of a job's log.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 first row  3 last row (both count from 0, or from -1 at the end)
-- Returns  {rows, how many the log has}
--
-- Mirrors BullMQ 5 and 6, get logs, ascending.

local rows = key(ARGV[1]) .. ':logs'
local start, stop = number_argument(2), number_argument(3)
return { redis.call('LRANGE', rows, start, stop), redis.call('LLEN', rows) }
