-- adding.lua: how a new job is stored and placed, and what its deduplication id holds.

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
