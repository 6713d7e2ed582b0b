-- metrics: how many jobs ended, minute by minute.
--
-- KEYS[1]  meta
-- ARGV     1 'completed' or 'failed'  2 first minute  3 last minute (both count from the newest; -1: the oldest)
-- Returns  {count, prevTS, prevCount, jobs of each minute, how many minutes there are}; '' for what is not there
--
-- Mirrors BullMQ 5 and 6, get metrics.

local metrics, start, stop = key('metrics:' .. ARGV[1]), number_argument(2), number_argument(3)
local found = redis.call('HMGET', metrics, 'count', 'prevTS', 'prevCount')
local data = metrics .. ':data'
return { found[1] or '', found[2] or '', found[3] or '', redis.call('LRANGE', data, start, stop), redis.call('LLEN', data) }
