-- rate_limit_ttl: how long the rate limit lets no job start.
--
-- KEYS[1]  meta
-- ARGV     1 how many a window allows ('': what the queue says)
-- Returns  ms, 0: a job may start; where nobody sets a limit, what is left of the window, -2: there is none
--
-- Mirrors BullMQ 5 and 6, get rate limit ttl.

local max = ARGV[1] ~= '' and number_argument(1) or read_settings().rate_max
local ttl_ms = redis.call('PTTL', key('limiter'))
if not max then
  return ttl_ms
end
local started = tonumber(redis.call('GET', key('limiter')) or '') or 0
return started >= max and math.max(ttl_ms, 0) or 0
