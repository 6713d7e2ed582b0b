-- adding.lua: how a new job is stored and placed, and what its deduplication id holds.

local PRIORITY_MAX = 2097151 -- more would not leave a score of `prioritized` exact
local DUE_MS_MAX = 2199023255551 -- nor a later moment one of `delayed`

-- Write a new job's hash. job: name, data, opts (JSON), timestamp_ms, delay_ms, priority, and any further
-- fields and values in `...`.
local function store_job(id, job, ...)
  redis.call('HSET', key(id), 'name', job.name, 'data', job.data, 'opts', job.opts,
    'timestamp', digits(job.timestamp_ms), 'delay', digits(job.delay_ms), 'priority', digits(job.priority), ...)
  emit('added', 'jobId', id, 'name', job.name)
end

-- Put a new job where it waits: children go before a delay, a delay before a priority, a priority before lifo.
local function place_job(settings, id, job)
  if job.waits_for_children then
    redis.call('ZADD', key('waiting-children'), job.timestamp_ms, id)
    emit_and_trim(settings, 'waiting-children', 'jobId', id)
    return
  end
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
-- Deduplication at the end of a job

-- Let go of a deduplication id, unless its own time to live still runs.
local function release_deduplication(deduplication_id, id)
  local owner = key('de:' .. deduplication_id)
  local ttl_ms = redis.call('PTTL', owner)
  if ttl_ms == 0 or (ttl_ms == -1 and redis.call('GET', owner) == id) then
    redis.call('DEL', owner)
  end
end

-- A number in options as a whole one, 0 to `most`; what is none counts as 0.
local function option_number(value, most)
  local number = tonumber(value)
  if not number or number ~= number then
    return 0
  end
  return math.floor(math.max(0, math.min(number, most)))
end

-- The options in a kept job's JSON that say where it waits; what cannot be read counts as not said.
local function placing_options(text, now_ms)
  local ok, opts = pcall(cjson.decode, text)
  if not ok or type(opts) ~= 'table' then
    opts = {}
  end
  return {
    delay_ms = option_number(opts.delay, DUE_MS_MAX - now_ms),
    priority = option_number(opts.priority, PRIORITY_MAX),
    lifo = opts.lifo == true,
  }
end

-- Add the job that was kept back under a deduplication id while its owner ran (keepLastIfActive). An id that
-- is taken by now is left to the job that has it; a parent that is gone by now waits for nothing.
local function add_kept_job(settings, deduplication_id, now_ms)
  local record_key = key('dn:' .. deduplication_id)
  local record = redis.call('HMGET', record_key, 'name', 'data', 'opts', 'jid', 'pk', 'pd', 'pdk', 'rjk')
  redis.call('DEL', record_key)
  local number = digits(redis.call('INCR', key('id')))
  local id = record[4] or number
  if redis.call('EXISTS', key(id)) == 1 then
    emit_and_trim(settings, 'duplicated', 'jobId', id)
    return
  end
  local job = placing_options(record[3] or '{}', now_ms)
  job.name, job.data, job.opts, job.timestamp_ms = record[1] or '', record[2] or '{}', record[3] or '{}', now_ms
  redis.call('SET', key('de:' .. deduplication_id), id)
  local fields = { 'deid', deduplication_id }
  for n, field in pairs({ [5] = 'parentKey', [6] = 'parent', [8] = 'rjk' }) do
    if record[n] then
      table.insert(fields, field)
      table.insert(fields, record[n])
    end
  end
  store_job(id, job, unpack(fields))
  place_job(settings, id, job)
  if record[7] and record[5] and redis.call('EXISTS', record[5]) == 1 then
    redis.call('SADD', record[7], key(id))
  end
end

local function end_deduplication(settings, deduplication_id, id, now_ms)
  release_deduplication(deduplication_id, id)
  if redis.call('EXISTS', key('dn:' .. deduplication_id)) == 1 then
    add_kept_job(settings, deduplication_id, now_ms)
  end
end
