-- change_priority: a job waits at another place.
-- Uses: places requeue
--
-- KEYS[1]  meta
-- ARGV     1 id  2 priority  3 '1': before those of the same priority, else '0'
-- Returns  'done', 'gone'
--
-- Mirrors BullMQ 5 and 6, change priority.
-- Differences: `wait` and `paused` are one; before its equals, too, it sets the marker.

local id, priority, first = ARGV[1], number_argument(2), ARGV[3] == '1'
if not is_job(id) then
  return 'gone'
end

local function waited()
  return redis.call('ZREM', key('prioritized'), id) == 1
    or redis.call('LREM', key('wait'), -1, id) == 1
    or redis.call('LREM', key('paused'), -1, id) == 1
end

redis.call('HSET', key(id), 'priority', digits(priority))
if waited() then
  place_again(read_settings(), id, first)
end
return 'done'
