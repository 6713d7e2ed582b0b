-- ending.lua: how a job ends, in `completed` or in `failed`. Needs adding.lua and parents.lua before it.

-- How many finished jobs stay: three arguments from `n` on (count -1: all; age '': any; limit of the age rule).
local function keep_argument(n)
  local age_s = nil
  if ARGV[n + 1] ~= '' then
    age_s = number_argument(n + 1)
  end
  return {
    count = math.floor(number_argument(n)),
    age_s = age_s,
    limit = math.max(0, math.floor(number_argument(n + 2))),
  }
end

-- Delete finished jobs. A parent that still waited for one (it has failed without a rule for that) does so no more.
local function delete_finished(set, ids, now_ms)
  for _, id in ipairs(ids) do
    local parent_key = find_parent(id)
    redis.call('ZREM', set, id)
    delete_job(id)
    if parent_key then
      do_aside(unlink_child, parent_key, key(id), now_ms)
    end
  end
end

-- Retention in a set of finished jobs: by age, then by count, the oldest first, at most BATCH in one finish.
local function apply_retention(set, now_ms, keep)
  local budget = BATCH
  if keep.age_s then
    local limit = math.min(keep.limit, budget)
    local expired = redis.call('ZRANGEBYSCORE', set, '-inf', now_ms - keep.age_s * 1000, 'LIMIT', 0, limit)
    delete_finished(set, expired, now_ms)
    budget = budget - #expired
  end
  if keep.count > 0 then
    local excess = math.min(redis.call('ZCARD', set) - keep.count, budget)
    if excess > 0 then
      delete_finished(set, redis.call('ZRANGE', set, 0, excess - 1), now_ms)
    end
  end
end

local function emit_if_drained()
  if redis.call('EXISTS', key('wait'), key('active'), key('prioritized'), key('paused')) == 0 then
    emit('drained')
  end
end

-- Tell the job's parent what it came to, before anything else of the end is seen.
local function tell_parent(id, parent_key, job, ending)
  if ending.set == 'completed' then
    child_completed(parent_key, key(id), ending.value, ending.now_ms)
  else
    child_failed(parent_key, key(id), job.parent, ending.value, ending.now_ms)
  end
  if ending.keep.count == 0 then -- deleted: a parent that would wait for its retry waits for nothing
    unlink_child(parent_key, key(id), ending.now_ms)
  end
end

-- Count a finished job per minute: `count` and a list of at most `points` minutes, the newest first. The place of
-- the zeros is BullMQ's.
local function count_in_metrics(set, now_ms, points)
  local metrics = key('metrics:' .. set)
  local count = redis.call('HINCRBY', metrics, 'count', 1) - 1
  local found = redis.call('HMGET', metrics, 'prevTS', 'prevCount')
  if not found[1] then
    redis.call('HSET', metrics, 'prevTS', digits(now_ms), 'prevCount', '0')
    return
  end
  local minutes = math.floor(now_ms / 60000) - math.floor(integer(found[1]) / 60000)
  minutes = math.min(minutes, points)
  if minutes <= 0 then
    return
  end
  local data = metrics .. ':data'
  redis.call('LPUSH', data, digits(count - integer(found[2])))
  for first = 2, minutes, BATCH do
    local zeros = {}
    for n = first, math.min(first + BATCH - 1, minutes) do
      zeros[n - first + 1] = '0'
    end
    redis.call('LPUSH', data, unpack(zeros))
  end
  redis.call('LTRIM', data, 0, points - 1)
  redis.call('HSET', metrics, 'prevCount', digits(count), 'prevTS', digits(now_ms))
end

-- What a lease's end writes into the hash: the attempt that was made, whose end it was, and pairs of field and value
-- that begin at argument `n`.
local function settled_fields(lease, job, n)
  return { 'atm', digits(job.attempts_made + 1), 'hq:settled', lease.token, unpack(ARGV, n) }
end

-- Write a job's outcome and put it where the ended are (or delete it), before it is taken out of where it was: nothing
-- that is wrong elsewhere can cost the outcome, and what cannot be placed stays as it is.
-- ending: set ('completed' or 'failed': also the event's name), prev (where the job was), field and value of the
-- outcome, now_ms, keep, fields (pairs for the hash, flat), metrics_points (0: none are kept).
local function place_ended(id, ending)
  if ending.keep.count == 0 then
    delete_job(id)
    return
  end
  redis.call('ZADD', key(ending.set), ending.now_ms, id)
  redis.call('HSET', key(id), ending.field, ending.value, 'finishedOn', digits(ending.now_ms), unpack(ending.fields))
end

-- What all jobs that end have in common, once they lie where the ended are and nowhere else.
-- job: deduplication_id, parent_key and parent, as in read_leased.
local function finish(settings, id, job, ending)
  trim_events(settings)
  if job.deduplication_id then
    end_deduplication(settings, job.deduplication_id, id, ending.now_ms)
  end
  local parent_key = parent_key_of(job.parent_key, job.parent)
  if parent_key then
    do_aside(tell_parent, id, parent_key, job, ending)
  end
  if ending.keep.count ~= 0 then
    apply_retention(key(ending.set), ending.now_ms, ending.keep)
  end
  emit(ending.set, 'jobId', id, ending.field, ending.value, 'prev', ending.prev)
  if ending.metrics_points > 0 then
    do_aside(count_in_metrics, ending.set, ending.now_ms, ending.metrics_points)
  end
end
