-- end_rate_limit: the present window of the rate limit is over.
--
-- KEYS[1]  meta
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, remove rate limit key.
-- Differences: the marker wakes a worker, if a job waits.

redis.call('DEL', key('limiter'))
if redis.call('EXISTS', key('wait'), key('prioritized')) > 0 then
  mark_ready(read_settings())
end
