-- rate_limit: workers with a limit start nothing for a while.
--
-- KEYS[1]  meta
-- ARGV     1 for how long (ms)
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, rate limit of the queue.

-- More starts than any limit: the greatest whole number that JavaScript holds exactly and Redis counts on from.
redis.call('SET', key('limiter'), '9007199254740991', 'PX', digits(number_argument(1)))
