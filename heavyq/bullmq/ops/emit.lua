-- emit: an event of one's own in the queue's stream.
--
-- KEYS[1]  meta
-- ARGV     1 about how many events stay  2 name  3... pairs of field and value
-- Returns  the event's id
--
-- Mirrors BullMQ 5 and 6, QueueEventsProducer, which writes without a script.

local kept = number_argument(1)
check_field_pairs(3)
return redis.call('XADD', key('events'), 'MAXLEN', '~', kept, '*', 'event', ARGV[2], unpack(ARGV, 3))
