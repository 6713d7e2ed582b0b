-- set_rate_limit: how many jobs of the queue may start in a window, in all.
--
-- KEYS[1]  meta
-- ARGV     1 how many  2 the window (ms); both '': any number
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, which write the fields without a script.

if ARGV[1] == '' then
  redis.call('HDEL', KEYS[1], 'max', 'duration')
else
  redis.call('HSET', KEYS[1], 'max', digits(number_argument(1)), 'duration', digits(number_argument(2)))
end
