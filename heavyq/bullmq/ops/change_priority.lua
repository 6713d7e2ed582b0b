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

-- The structure in which the job waits; nil if it does not.
local function place_of()
  if redis.call('ZSCORE', key('prioritized'), id) then
    return 'prioritized'
  end
  for _, list in ipairs({ 'wait', 'paused' }) do
    if redis.call('LPOS', key(list), id, 'RANK', -1) then
      return list
    end
  end
  return nil
end

-- Take the job, which lies at its new place too, out of its old one. In one list the old is the one farther from
-- the end that it was pushed to; in `prioritized` a new score has moved it.
local function leave(place)
  if place ~= 'prioritized' then
    redis.call('LREM', key(place), first and 1 or -1, id)
  elseif priority == 0 then
    redis.call('ZREM', key('prioritized'), id)
  end
end

local settings = read_settings()
local place = place_of()
redis.call('HSET', key(id), 'priority', digits(priority))
if place then
  place_again(settings, id, first)
  leave(place)
  mark_ready(settings)
end
return 'done'
