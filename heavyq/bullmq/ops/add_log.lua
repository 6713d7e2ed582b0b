-- add_log: a row for the log of any job.
-- Uses: places
--
-- KEYS[1]  meta
-- ARGV     1 id  2 row  3 rows to keep, the newest ('': all)
-- Returns  how many rows the log has now; -1: there is no such job, nothing is written
--
-- Mirrors BullMQ 5 and 6, add log.

local rows, keep = key(ARGV[1]) .. ':logs', ARGV[3] ~= '' and number_argument(3)
if not is_job(ARGV[1]) then
  return -1
end
redis.call('RPUSH', rows, ARGV[2])
if keep == 0 then
  redis.call('DEL', rows)
elseif keep then
  redis.call('LTRIM', rows, -keep, -1)
end
return redis.call('LLEN', rows)
