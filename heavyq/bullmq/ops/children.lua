-- children: what a parent knows of its children.
--
-- KEYS[1]  meta
-- ARGV     1 id
-- Returns  {keys and values (JSON) of the completed, keys and reasons of the failed that are ignored,
--           keys of the pending, keys of the failed that fail the parent}
--
-- Mirrors what BullMQ's clients read by plain commands, in one step.

local job = key(ARGV[1])
return {
  redis.call('HGETALL', job .. ':processed'),
  redis.call('HGETALL', job .. ':failed'),
  redis.call('SMEMBERS', job .. ':dependencies'),
  redis.call('ZRANGE', job .. ':unsuccessful', 0, -1),
}
