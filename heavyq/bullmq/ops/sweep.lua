-- sweep: give back the jobs whose holder let their lock expire.
--
-- KEYS[1]  meta
-- ARGV     1 now (ms)  2 stalled interval (ms)  3 times a job may stall before it fails
-- Returns  the ids that went back to wait
--
-- A job is taken for stalled only at the second look: it was in `active` at the last one, nobody has renewed its
-- lock since, and the lock is gone. One look per interval, whoever takes it.
--
-- Mirrors BullMQ 5 and 6, move stalled jobs to wait.
-- Differences: heavyq's own fields of the run go; a job that was to be cancelled gets `defa`; an id without a job is only dropped; while paused, the list in use is kept.

local now_ms, interval_ms, stalls_allowed = number_argument(1), number_argument(2), number_argument(3)
local TOO_MANY = 'job stalled more than allowable limit'

-- A job of a living scheduler never fails for its stalls: its next run hangs on it.
local function has_scheduler(scheduler_id)
  if not scheduler_id then
    return false
  end
  return redis.call('EXISTS', key('repeat:' .. scheduler_id)) == 1
    or redis.call('ZSCORE', key('repeat'), scheduler_id) ~= false
end

local function give_back(settings, id)
  local found = redis.call('HMGET', key(id), 'stc', 'rjk', 'hq:cancel')
  local stalls = integer(found[1]) + 1
  push_first(settings, id)
  redis.call('LREM', key('active'), -1, id)
  redis.call('HSET', key(id), 'stc', digits(stalls))
  if stalls > stalls_allowed and not has_scheduler(found[2]) then
    redis.call('HSET', key(id), 'defa', TOO_MANY) -- the next worker that leases it fails it, without running
  end
  keep_cancel(key(id), found[3])
  redis.call('HDEL', key(id), 'hq:fence', 'hq:cancel')
  emit('waiting', 'jobId', id, 'prev', 'active')
  emit('stalled', 'jobId', id)
end

-- The suspects of the last look that were not renewed and left behind by their holder.
local function give_back_stalled(settings)
  local given_back = {}
  for _, id in ipairs(redis.call('SMEMBERS', key('stalled'))) do
    local is_held = redis.call('EXISTS', lock_key(id)) == 1
    local is_left = not is_held and redis.call('LPOS', key('active'), id, 'RANK', -1)
    if is_left and job_exists(id) then
      give_back(settings, id)
      given_back[#given_back + 1] = id
    elseif is_left then
      redis.call('LREM', key('active'), -1, id)
    end
  end
  redis.call('DEL', key('stalled'))
  if #given_back > 0 then
    mark_ready(settings)
  end
  return given_back
end

local function suspect_all_active()
  local active = redis.call('LRANGE', key('active'), 0, -1)
  for n = 1, #active, BATCH do
    redis.call('SADD', key('stalled'), unpack(active, n, math.min(n + BATCH - 1, #active)))
  end
end

if not redis.call('SET', key('stalled-check'), digits(now_ms), 'NX', 'PX', interval_ms) then
  return {}
end
local settings = read_settings()
trim_events(settings)
local given_back = give_back_stalled(settings)
suspect_all_active()
return given_back
