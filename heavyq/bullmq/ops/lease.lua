-- lease: promote what is due, take the next job and lock it.
--
-- KEYS[1]  meta
-- ARGV     1 token  2 now (ms)  3 lock duration (ms)  4 worker name ('': none)
--          5 '1': the reply to an earlier call with this token was lost; a job it took is returned, not another
--          6 jobs that the worker starts per window ('': no limit of its own)  7 the window (ms)
-- Returns  {'job', id, fields and values of its hash}, {'nothing', ms when the next delayed job is due or ''},
--          or {'refused', ms to wait for the rate limit, or 0: paused, or at the global concurrency}
--
-- Mirrors BullMQ 5 and 6, move to active.
-- The queue's own limit goes before the worker's, but the worker's window is used where it has one.
-- Differences: hq:fence is written; the wish to cancel an earlier run goes; an id without a job is dropped, never run (BullMQ makes a hash for it).
-- A deferred failure (`defa`) is left in the hash: the worker acts on it.

local token, now_ms, lock_ms, worker_name = ARGV[1], number_argument(2), number_argument(3), ARGV[4]
local is_replay = ARGV[5] == '1'
local worker_max = ARGV[6] ~= '' and number_argument(6) or nil
local worker_window_ms = worker_max and math.floor(math.abs(number_argument(7)))

local function leased(id)
  return { 'job', id, redis.call('HGETALL', key(id)) }
end

-- The job that is locked with our token, newest first; nil if there is none.
local function find_by_token()
  local from, step = 0, 100
  while true do
    local ids = redis.call('LRANGE', key('active'), from, from + step - 1)
    if #ids == 0 then
      return nil
    end
    local locks = {}
    for i, id in ipairs(ids) do
      locks[i] = lock_key(id)
    end
    for i, holder in ipairs(redis.call('MGET', unpack(locks))) do
      if holder == token and job_exists(ids[i]) then
        return ids[i]
      end
    end
    from = from + step
  end
end

-- Ms to wait until the rate limit lets a job start, or nil.
local function rate_limit_wait_ms(max)
  if not max then
    return nil
  end
  local started = redis.call('GET', key('limiter'))
  if not started or integer(started) < max then
    return nil
  end
  local ttl_ms = redis.call('PTTL', key('limiter'))
  if ttl_ms == 0 then
    redis.call('DEL', key('limiter'))
  end
  return ttl_ms > 0 and ttl_ms or nil
end

-- Move the next id to `active`; nil if none waits. Jobs without a priority go first.
local function take_next()
  local id = redis.call('LMOVE', key('wait'), key('active'), 'RIGHT', 'LEFT')
  if id then
    return id
  end
  id = redis.call('ZRANGE', key('prioritized'), 0, 0)[1]
  if id then
    redis.call('LPUSH', key('active'), id)
    redis.call('ZREM', key('prioritized'), id)
  else
    redis.call('DEL', key('pc'))
  end
  return id
end

-- As take_next, but what is no job is dropped (a lost hash; the `0:` markers of BullMQ 4 in its lists).
local function take_next_job()
  for _ = 1, BATCH do
    local id = take_next()
    if not id or job_exists(id) then
      return id
    end
    redis.call('LREM', key('active'), 1, id)
  end
  set_ready_marker() -- there is more to look through: the next lease goes on
  return nil
end

-- A number that grows with every lease of the queue, also after a loss of data and in another queue.
local function next_fence()
  local time = redis.call('TIME')
  local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local fence = digits(math.max(integer(redis.call('GET', key('hq:counter'))) + 1, now_us))
  redis.call('SET', key('hq:counter'), fence)
  return fence
end

-- Without a window the count ends at once: a limit needs both.
local function count_start(window_ms)
  if redis.call('INCR', key('limiter')) == 1 then
    redis.call('PEXPIRE', key('limiter'), digits(window_ms))
  end
end

if is_replay then
  local taken = find_by_token()
  if taken then
    return leased(taken)
  end
end

local settings = read_settings()
promote_due(settings, now_ms)
local rate_max = settings.rate_max or worker_max
local wait_ms = rate_limit_wait_ms(rate_max)
if wait_ms then
  return { 'refused', wait_ms }
end
if is_closed(settings) then
  return { 'refused', 0 }
end

local id = take_next_job()
if not id then
  local due_ms = earliest_due_ms()
  return { 'nothing', due_ms and digits(math.floor(due_ms)) or '' }
end

local found = redis.call('HMGET', key(id), 'ats', 'defa', 'hq:cancel')
if rate_max and not found[2] then -- what fails without running uses up nothing
  count_start(worker_window_ms or settings.rate_window_ms)
end
if found[3] then
  redis.call('HDEL', key(id), 'hq:cancel') -- left by a run whose worker does not know it
end
redis.call('SET', lock_key(id), token, 'PX', lock_ms)
emit('active', 'jobId', id, 'prev', 'waiting')
redis.call('HSET', key(id), 'processedOn', digits(now_ms), 'ats', digits(integer(found[1]) + 1),
  'hq:fence', next_fence())
if worker_name ~= '' then
  redis.call('HSET', key(id), 'pb', worker_name)
end
set_ready_marker() -- wakes the next idle worker, even if there is nothing for it
return leased(id)
