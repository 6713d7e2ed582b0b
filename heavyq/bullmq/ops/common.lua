-- common.lua: what most scripts share. It stands before every script at load and does nothing alone.
-- What only some share is in files of its own (adding, ending, parents, removal), which a script names in a line
-- `-- Uses: adding ending` of its header; they come after this one, in the order named.
--
-- KEYS[1] is always the queue's `meta` key. Every other key of the queue is derived from it, because job ids
-- are known only inside the scripts; on a cluster the prefix needs a hash tag for that.
--
-- Rules that every script keeps:
--   * arguments are checked, ownership is decided and the settings are read before the first write: scripts do not
--     roll back;
--   * a job is put where it goes before it is taken out of where it was: an error in between (a key of a wrong type)
--     may leave it in two places, never in none;
--   * no field is written to a job that does not exist (a ghost hash would swallow the next add of its id);
--   * JSON is passed through as text, never encoded here (cjson turns [] into {} and cuts long integers);
--   * a number becomes text by `digits`, for `..` and tostring keep only 14 digits.

local SCORE_PER_MS = 4096 -- scores of `delayed`: due ms * 4096 + place among jobs of that ms
local SCORE_PER_PRIORITY = 4294967296 -- scores of `prioritized`: priority * 2^32 + counter
local DEFAULT_EVENTS_KEPT = '10000'
local BATCH = 1000 -- most jobs that one script promotes, skips or removes

local QUEUE = string.sub(KEYS[1], 1, -5) -- '<prefix>:<queue>:'; another queue's inside `in_queue`

local function key(suffix)
  return QUEUE .. suffix
end

local function lock_key(id)
  return QUEUE .. id .. ':lock'
end

-- Call a function that works on another queue: all keys are that queue's meanwhile. base: '<prefix>:<queue>:'.
local function in_queue(base, act, ...)
  local before = QUEUE
  QUEUE = base
  local ok, result = pcall(act, ...)
  QUEUE = before
  if not ok then
    error(result, 0)
  end
  return result
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

-- All keys of a job but its lock.
local function delete_job(id)
  local job = key(id)
  redis.call('DEL', job, job .. ':logs', job .. ':dependencies', job .. ':processed', job .. ':failed',
    job .. ':unsuccessful')
end

-- Whether a job's hash exists. TYPE, not EXISTS: a key of another type is no job either.
local function job_exists(id)
  return redis.call('TYPE', key(id)).ok == 'hash'
end

----------------------------------------------------------------------------------------------------------
-- The queue's settings

local function read_settings()
  local found = redis.call('HMGET', key('meta'), 'paused', 'concurrency', 'opts.maxLenEvents', 'max', 'duration')
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
    redis.call('HSET', key('meta'), 'opts.maxLenEvents', DEFAULT_EVENTS_KEPT)
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
  local version = redis.call('HGET', key('meta'), 'version')
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
  for _, id in ipairs(due) do
    if not job_exists(id) then
      redis.call('ZREM', key('delayed'), id)
    else
      local priority = integer(redis.call('HGET', key(id), 'priority'))
      if priority > 0 then
        prioritize_last(id, priority)
      else
        push_last(settings, id)
      end
      redis.call('ZREM', key('delayed'), id)
      redis.call('HSET', key(id), 'delay', '0')
      emit('waiting', 'jobId', id, 'prev', 'delayed')
    end
  end
  mark_ready(settings)
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
    'atm', 'priority', 'deid', 'hq:cancel', 'parentKey', 'parent')
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
    cancel_reason = found[9],
    parent_key = found[10],
    parent = found[11],
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

local function is_active(lease)
  return redis.call('LPOS', key('active'), lease.id, 'RANK', -1) ~= false
end

-- Whether the holder of this lease may write to its job.
local function is_ours(lease)
  local job = read_leased(lease)
  return job ~= nil and holds_lock(lease, job) and is_active(lease)
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

-- The job has children that pend or have failed: it may not complete, nor wait for them in the second case.
local function children_refusal(lease)
  if redis.call('EXISTS', lease.key .. ':dependencies') == 1 then
    return 'pending_children'
  end
  if redis.call('EXISTS', lease.key .. ':unsuccessful') == 1 then
    return 'failed_children'
  end
  return nil
end

-- Whether the job is in `active`, as it is to settle it; otherwise the lease is lost, and nothing is written. The first
-- write takes no memory: a full server accepts those that follow it, and so every outcome.
local function starts_leaving(lease)
  if not is_active(lease) then
    return false
  end
  redis.call('SREM', key('stalled'), lease.id)
  return true
end

-- Take the job, which lies where it goes by now, out of `active` and end the lease; the fields in `...` go too.
local function leave_active(lease, ...)
  redis.call('LREM', key('active'), -1, lease.id)
  redis.call('DEL', lease.lock)
  redis.call('HDEL', lease.key, 'hq:fence', 'hq:cancel', ...)
end

-- Put a job where it runs next.
local function place_at_head(settings, lease, job)
  if job.priority > 0 then
    prioritize_first(lease.id, job.priority)
  else
    push_first(settings, lease.id)
  end
end

-- Tell that a job came from `active` to where it waits.
local function tell_returned(settings, lease)
  mark_ready(settings)
  emit_and_trim(settings, 'waiting', 'jobId', lease.id, 'prev', 'active')
end

-- The job was to be cancelled, and its run ended before it heard of that: whoever leases it next fails it.
local function keep_cancel(job_key, reason)
  if reason then
    redis.call('HSET', job_key, 'defa', reason == '' and 'cancelled' or 'cancelled: ' .. reason)
  end
end
