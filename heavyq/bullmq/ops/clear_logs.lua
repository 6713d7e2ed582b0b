-- clear_logs: rows of a job's log go.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 rows to keep, the newest
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, clear logs.

local rows, keep = key(ARGV[1]) .. ':logs', number_argument(2)
if keep > 0 then
  redis.call('LTRIM', rows, -keep, -1)
else
  redis.call('DEL', rows)
end
