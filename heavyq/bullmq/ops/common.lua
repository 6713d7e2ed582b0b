-- common.lua: what several scripts share. It stands before every script at load and does nothing alone.
--
-- KEYS[1] is always the queue's `meta` key. Every other key of the queue is derived from it, because job ids
-- are known only inside the scripts; on a cluster the prefix needs a hash tag for that.
--
-- Rules that every script keeps:
--   * arguments are checked, and ownership is decided, before the first write: scripts do not roll back;
--   * no field is written to a job that does not exist (a ghost hash would swallow the next add of its id);
--   * JSON is passed through as text, never encoded here (cjson turns [] into {} and cuts long integers);
--   * a number becomes text by `digits`, for `..` and tostring keep only 14 digits.

local SCORE_PER_MS = 4096 -- scores of `delayed`: due ms * 4096 + place among jobs of that ms
local SCORE_PER_PRIORITY = 4294967296 -- scores of `prioritized`: priority * 2^32 + counter
local DEFAULT_EVENTS_KEPT = '10000'
local BATCH = 1000 -- most jobs that one script promotes, skips or removes

local QUEUE = string.sub(KEYS[1], 1, -5) -- '<prefix>:<queue>:'

local function key(suffix)
  return QUEUE .. suffix
end

local function lock_key(id)
  return QUEUE .. id .. ':lock'
end

-- A whole number as decimal digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- The leading integer of a stored text as JavaScript's parseInt reads it; 0 where there is none, or none that a
-- double holds exactly: what is written back must be a number to every reader.
local function integer(text)
  local number = tonumber(string.match(text or '', '^%s*([+-]?%d+)')) or 0
  return math.abs(number) <= 9007199254740992 and number or 0
end

-- Argument `n` as a number. Called before the first write, so that a bad call changes nothing.
local function number_argument(n)
  return tonumber(ARGV[n]) or error('heavyq: ARGV[' .. n .. '] must be a number')
end

-- Arguments from `n` on are pairs of field and value for the job's hash.
local function check_field_pairs(n)
  if (#ARGV - n + 1) % 2 ~= 0 then
    error('heavyq: ARGV from ' .. n .. ' on must be pairs of field and value')
  end
end

-- Whether a job's hash exists. TYPE, not EXISTS: a key of another type is no job either.
local function job_exists(id)
  return redis.call('TYPE', key(id)).ok == 'hash'
end

----------------------------------------------------------------------------------------------------------
-- The queue's settings

local function read_settings()
  local found = redis.call('HMGET', KEYS[1], 'paused', 'concurrency', 'opts.maxLenEvents', 'max', 'duration')
  return {
    paused = found[1] ~= false, -- by existence, whatever the value
    concurrency = tonumber(found[2] or ''), -- nil: none
    events_kept = found[3],
    rate_max = tonumber(found[4] or ''), -- nil: none
    rate_window_ms = integer(found[5]),
  }
end

-- No job may start: the queue is paused, or as many run as its global concurrency allows.
local function is_closed(settings)
  if settings.paused then
    return true
  end
  return settings.concurrency ~= nil and redis.call('LLEN', key('active')) >= settings.concurrency
end

----------------------------------------------------------------------------------------------------------
-- Events

-- How long the event stream may grow. Whoever needs it and finds it unset, sets it.
local function events_kept(settings)
  if not settings.events_kept then
    redis.call('HSET', KEYS[1], 'opts.maxLenEvents', DEFAULT_EVENTS_KEPT)
    settings.events_kept = DEFAULT_EVENTS_KEPT
  end
  return string.match(settings.events_kept, '^%d+') or DEFAULT_EVENTS_KEPT
end

local function emit(event, ...)
  redis.call('XADD', key('events'), '*', 'event', event, ...)
end

local function emit_and_trim(settings, event, ...)
  redis.call('XADD', key('events'), 'MAXLEN', '~', events_kept(settings), '*', 'event', event, ...)
end

local function trim_events(settings)
  redis.call('XTRIM', key('events'), 'MAXLEN', '~', events_kept(settings))
end

----------------------------------------------------------------------------------------------------------
-- Markers: what idle workers block on

local function set_ready_marker()
  redis.call('ZADD', key('marker'), 0, '0')
end

local function mark_ready(settings)
  if not is_closed(settings) then
    set_ready_marker()
  end
end

-- Score of the earliest delayed job in ms, with its fraction; nil if none is delayed.
local function earliest_due_ms()
  local first = redis.call('ZRANGE', key('delayed'), 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2]) / SCORE_PER_MS
end

-- Also while paused: the delayed job comes due all the same.
local function mark_delayed()
  local due_ms = earliest_due_ms()
  if due_ms then
    redis.call('ZADD', key('marker'), due_ms, '1')
  end
end

-- A job left `active` and nothing is leased in the same step. At a global concurrency no marker stands for
-- the jobs that wait (nobody could take them before now), so one is set.
local function mark_freed_place(settings)
  if settings.concurrency and redis.call('EXISTS', key('wait'), key('prioritized')) > 0 then
    mark_ready(settings)
  end
end

----------------------------------------------------------------------------------------------------------
-- Where jobs wait

-- The list that takes a job which becomes ready. While paused, BullMQ 5 keeps such jobs in `paused` and
-- BullMQ 6 in `wait`; a resume of either loses jobs if both lists hold some, so the one in use is kept.
local function waiting_list(settings)
  if not settings.paused then
    return key('wait')
  end
  for _, list in ipairs({ 'paused', 'wait' }) do
    if redis.call('EXISTS', key(list)) == 1 then
      return key(list)
    end
  end
  local version = redis.call('HGET', KEYS[1], 'version')
  return key(version and string.match(version, '^%D*5%.') and 'paused' or 'wait')
end

-- Behind all that wait.
local function push_last(settings, id)
  redis.call('LPUSH', waiting_list(settings), id)
end

-- Before all that wait: it runs next.
local function push_first(settings, id)
  redis.call('RPUSH', waiting_list(settings), id)
end

-- Behind all of the same priority.
local function prioritize_last(id, priority)
  local place = redis.call('INCR', key('pc')) % SCORE_PER_PRIORITY
  redis.call('ZADD', key('prioritized'), priority * SCORE_PER_PRIORITY + place, id)
end

-- Before all of the same priority.
local function prioritize_first(id, priority)
  redis.call('ZADD', key('prioritized'), priority * SCORE_PER_PRIORITY, id)
end

-- Put a job in `delayed`; jobs due in one ms keep their order, the first 4096 of them.
local function push_delayed(id, due_ms)
  local low = due_ms * SCORE_PER_MS
  local high = low + SCORE_PER_MS - 1
  local last = redis.call('ZREVRANGEBYSCORE', key('delayed'), high, low, 'WITHSCORES', 'LIMIT', 0, 1)
  local score = last[2] and math.min(tonumber(last[2]) + 1, high) or low
  redis.call('ZADD', key('delayed'), score, id)
end

-- Move the delayed jobs that are due to where they wait. An id without a job is dropped.
local function promote_due(settings, now_ms)
  local last_due = (now_ms + 1) * SCORE_PER_MS - 1
  local due = redis.call('ZRANGEBYSCORE', key('delayed'), 0, last_due, 'LIMIT', 0, BATCH)
  if #due == 0 then
    return
  end
  redis.call('ZREM', key('delayed'), unpack(due))
  for _, id in ipairs(due) do
    if job_exists(id) then
      local priority = integer(redis.call('HGET', key(id), 'priority'))
      if priority > 0 then
        prioritize_last(id, priority)
      else
        push_last(settings, id)
      end
      emit('waiting', 'jobId', id, 'prev', 'delayed')
      redis.call('HSET', key(id), 'delay', '0')
    end
  end
  mark_ready(settings)
end

----------------------------------------------------------------------------------------------------------
-- New jobs

-- Write a new job's hash. job: name, data, opts (JSON), timestamp_ms, delay_ms, priority, and any further
-- fields and values in `...`.
local function store_job(id, job, ...)
  redis.call('HSET', key(id), 'name', job.name, 'data', job.data, 'opts', job.opts,
    'timestamp', digits(job.timestamp_ms), 'delay', digits(job.delay_ms), 'priority', digits(job.priority), ...)
  emit('added', 'jobId', id, 'name', job.name)
end

-- Put a new job where it waits: a delay goes before a priority, and a priority before lifo.
local function place_job(settings, id, job)
  if job.delay_ms > 0 then
    local due_ms = job.timestamp_ms + job.delay_ms
    push_delayed(id, due_ms)
    emit_and_trim(settings, 'delayed', 'jobId', id, 'delay', digits(due_ms))
    mark_delayed()
    return
  end
  if job.priority > 0 then
    prioritize_last(id, job.priority)
  elseif job.lifo then
    push_first(settings, id)
  else
    push_last(settings, id)
  end
  mark_ready(settings)
  emit_and_trim(settings, 'waiting', 'jobId', id)
end

----------------------------------------------------------------------------------------------------------
-- Leases: who may write

-- A lease's identity, five arguments from `n` on.
local function lease_argument(n)
  return {
    id = ARGV[n],
    token = ARGV[n + 1],
    fence = ARGV[n + 2],
    started = ARGV[n + 3],
    processed_on = ARGV[n + 4],
    key = key(ARGV[n]),
    lock = lock_key(ARGV[n]),
  }
end

-- The fields of the leased job that decide what may be done with it; nil if its hash is gone.
local function read_leased(lease)
  local found = redis.call('HMGET', lease.key, 'hq:fence', 'ats', 'processedOn', 'finishedOn', 'hq:settled',
    'atm', 'priority', 'deid')
  if not found[1] and redis.call('EXISTS', lease.key) == 0 then
    return nil
  end
  return {
    fence = found[1],
    started = found[2],
    processed_on = found[3],
    finished_on = found[4],
    settled = found[5],
    attempts_made = integer(found[6]),
    priority = integer(found[7]),
    deduplication_id = found[8],
  }
end

-- The lock is the lease's, or it has expired and nothing in the hash says that anybody else had the job since.
-- The caller still has to see that the id is in `active`.
local function holds_lock(lease, job)
  local lock = redis.call('GET', lease.lock)
  if lock then
    return lock == lease.token
  end
  return not job.finished_on
    and job.fence == lease.fence
    and job.started == lease.started
    and job.processed_on == lease.processed_on
end

-- Whether the holder of this lease may write to its job.
local function is_ours(lease)
  local job = read_leased(lease)
  return job ~= nil and holds_lock(lease, job) and redis.call('LPOS', key('active'), lease.id) ~= false
end

-- Why a settle does not go on: it was done before ('settled'), the job is 'gone', or the lease is 'lost'.
local function settle_refusal(lease, job)
  if not job then
    return 'gone'
  end
  if job.settled == lease.token then
    return 'settled'
  end
  if not holds_lock(lease, job) then
    return 'lost'
  end
  return nil
end

-- Take the job out of `active` and end the lease; the fields in `...` go too.
-- False, and nothing written, if it was not there: then the lease is lost.
local function leave_active(lease, ...)
  if redis.call('LREM', key('active'), -1, lease.id) == 0 then
    return false
  end
  redis.call('DEL', lease.lock)
  redis.call('SREM', key('stalled'), lease.id)
  redis.call('HDEL', lease.key, 'hq:fence', ...)
  return true
end

----------------------------------------------------------------------------------------------------------
-- Deduplication at the end of a job

-- Let go of a deduplication id, unless its own time to live still runs.
local function release_deduplication(deduplication_id, id)
  local owner = key('de:' .. deduplication_id)
  local ttl_ms = redis.call('PTTL', owner)
  if ttl_ms == 0 or (ttl_ms == -1 and redis.call('GET', owner) == id) then
    redis.call('DEL', owner)
  end
end

-- The options in a kept job's JSON that say where it waits; what cannot be read counts as not said.
local function placing_options(text)
  local ok, opts = pcall(cjson.decode, text)
  if not ok or type(opts) ~= 'table' then
    opts = {}
  end
  return { delay_ms = tonumber(opts.delay) or 0, priority = tonumber(opts.priority) or 0, lifo = opts.lifo == true }
end

-- Add the job that was kept back under a deduplication id while its owner ran (keepLastIfActive). An id that
-- is taken by now is left to the job that has it.
local function add_kept_job(settings, deduplication_id, now_ms)
  local record_key = key('dn:' .. deduplication_id)
  local record = redis.call('HMGET', record_key, 'name', 'data', 'opts', 'jid', 'pk', 'pd', 'pdk', 'rjk')
  redis.call('DEL', record_key)
  local number = digits(redis.call('INCR', key('id')))
  local id = record[4] or number
  if job_exists(id) then
    emit_and_trim(settings, 'duplicated', 'jobId', id)
    return
  end
  local job = placing_options(record[3] or '{}')
  job.name, job.data, job.opts, job.timestamp_ms = record[1] or '', record[2] or '{}', record[3] or '{}', now_ms
  redis.call('SET', key('de:' .. deduplication_id), id)
  store_job(id, job, 'deid', deduplication_id)
  for field, value in pairs({ parentKey = record[5], parent = record[6], rjk = record[8] }) do
    if value then
      redis.call('HSET', key(id), field, value)
    end
  end
  place_job(settings, id, job)
  if record[7] then
    redis.call('SADD', record[7], key(id))
  end
end

local function end_deduplication(settings, deduplication_id, id, now_ms)
  release_deduplication(deduplication_id, id)
  if redis.call('EXISTS', key('dn:' .. deduplication_id)) == 1 then
    add_kept_job(settings, deduplication_id, now_ms)
  end
end

----------------------------------------------------------------------------------------------------------
-- The end of a job

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

-- All keys of a job but its lock.
local function delete_job(id)
  local job = key(id)
  redis.call('DEL', job, job .. ':logs', job .. ':dependencies', job .. ':processed', job .. ':failed',
    job .. ':unsuccessful')
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
