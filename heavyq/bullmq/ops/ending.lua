-- ending.lua: how a job ends, in `completed` or in `failed`. Needs adding.lua before it.

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

-- A parent still counts on this job: removing it would have to release the parent.
local function is_awaited_by_parent(id)
  local parent = redis.call('HGET', key(id), 'parentKey')
  return parent and redis.call('SISMEMBER', parent .. ':dependencies', key(id)) == 1
end

-- Delete finished jobs, but those that a parent waits for.
local function delete_finished(set, ids)
  for _, id in ipairs(ids) do
    if not is_awaited_by_parent(id) then
      redis.call('ZREM', set, id)
      delete_job(id)
    end
  end
end

-- Retention in a set of finished jobs: by age, then by count, the oldest first, at most BATCH in one finish.
local function apply_retention(set, now_ms, keep)
  local budget = BATCH
  if keep.age_s then
    local limit = math.min(keep.limit, budget)
    local expired = redis.call('ZRANGEBYSCORE', set, '-inf', now_ms - keep.age_s * 1000, 'LIMIT', 0, limit)
    delete_finished(set, expired)
    budget = budget - #expired
  end
  if keep.count > 0 then
    local excess = math.min(redis.call('ZCARD', set) - keep.count, budget)
    if excess > 0 then
      delete_finished(set, redis.call('ZRANGE', set, 0, excess - 1))
    end
  end
end

local function emit_if_drained()
  if redis.call('EXISTS', key('wait'), key('active'), key('prioritized'), key('paused')) == 0 then
    emit('drained')
  end
end

-- What a completed and a failed job have in common once they have left `active`. The outcome is written first,
-- so that nothing which is wrong elsewhere in the queue can cost it.
-- ending: set ('completed' or 'failed': also the event's name), field and value of the outcome, now_ms, keep,
-- and pairs_from, where the arguments begin that are pairs of field and value for the hash.
local function finish(settings, lease, job, ending)
  if ending.keep.count == 0 then
    delete_job(lease.id)
  else
    redis.call('HSET', lease.key, ending.field, ending.value, 'finishedOn', digits(ending.now_ms),
      'atm', digits(job.attempts_made + 1), 'hq:settled', lease.token, unpack(ARGV, ending.pairs_from))
    redis.call('ZADD', key(ending.set), ending.now_ms, lease.id)
  end
  trim_events(settings)
  if job.deduplication_id then
    end_deduplication(settings, job.deduplication_id, lease.id, ending.now_ms)
  end
  emit(ending.set, 'jobId', lease.id, ending.field, ending.value, 'prev', 'active')
  if ending.keep.count ~= 0 then
    apply_retention(key(ending.set), ending.now_ms, ending.keep)
  end
end
