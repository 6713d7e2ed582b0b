-- add: store a job and put it where it waits.
--
-- KEYS[1]  meta
-- ARGV     1 name  2 data (JSON)  3 opts (JSON)  4 timestamp (ms)  5 delay (ms)  6 priority (0: none)
--          7 lifo ('1' or '0')  8 job id ('': the next number)
-- Returns  {id, 1 if a job of that id was there already, else 0}
--
-- Mirrors BullMQ 5 and 6, add of a standard, delayed or prioritized job (protocol 7.1 to 7.3).
-- Differences: one script for the three kinds; while paused, the list in use is kept (protocol 5.3). No parent,
-- no deduplication, no scheduler here.

local name, data, opts = ARGV[1], ARGV[2], ARGV[3]
local timestamp_ms, delay_ms, priority = number_argument(4), number_argument(5), number_argument(6)
local lifo, wanted_id = ARGV[7] == '1', ARGV[8]

local settings = read_settings()
local id = digits(redis.call('INCR', key('id')))
if wanted_id ~= '' then
  id = wanted_id
  if redis.call('EXISTS', key(id)) == 1 then
    emit_and_trim(settings, 'duplicated', 'jobId', id)
    return { id, 1 }
  end
end

redis.call('HSET', key(id), 'name', name, 'data', data, 'opts', opts, 'timestamp', digits(timestamp_ms),
  'delay', digits(delay_ms), 'priority', digits(priority))
emit('added', 'jobId', id, 'name', name)

if delay_ms > 0 then
  push_delayed(id, timestamp_ms + delay_ms)
  emit_and_trim(settings, 'delayed', 'jobId', id, 'delay', digits(timestamp_ms + delay_ms))
  mark_delayed()
  return { id, 0 }
end
if priority > 0 then
  prioritize_last(id, priority)
elseif lifo then
  push_first(settings, id)
else
  push_last(settings, id)
end
mark_ready(settings)
emit_and_trim(settings, 'waiting', 'jobId', id)
return { id, 0 }
