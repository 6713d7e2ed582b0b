-- set_concurrency: how many jobs of the queue may be in work, in all.
--
-- KEYS[1]  meta
-- ARGV     1 how many ('': any number)
-- Returns  nothing
--
-- Mirrors BullMQ 5 and 6, which write the field without a script.
-- Differences: where more may run now, the marker wakes a worker.

if ARGV[1] == '' then
  redis.call('HDEL', KEYS[1], 'concurrency')
else
  redis.call('HSET', KEYS[1], 'concurrency', digits(number_argument(1)))
end
if redis.call('EXISTS', key('wait'), key('prioritized')) > 0 then
  mark_ready(read_settings())
end
