-- next_iteration: plan the job of a scheduler that follows the one leased just now.
-- Uses: adding schedules
--
-- KEYS[1]  meta
-- ARGV     1 id of the leased job  2 scheduler id  3 the same inside a JSON string  4 now (ms)
--          5 options of the next job (JSON, without those that depend on its moment)
--          6 priority  7 lifo ('1' or '0')  8 deduplication id ('': none)
--          9 every, as the leased job has it (ms, '': by pattern)  10 end (ms, '': none)
--          11... moments of the pattern, in order
-- Returns  the id of the next job; '' if none was planned: the scheduler is gone or has planned it already, it has
--          ended, or there is a job for each moment that was tried
--
-- Mirrors BullMQ 5 and 6, update job scheduler.
-- Differences: `nrjid` is not written; as 5, a scheduler without data takes the leased job's; no job is planned
-- after the end; a moment that has a job already is passed over for the next (there the scheduler would stop).

local id, scheduler_id, now_ms = ARGV[1], ARGV[2], number_argument(4)
local end_ms, slots = whole(ARGV[10], 0), moments_argument(11)
local job = {
  id_text = ARGV[3],
  opts = ARGV[5],
  priority = number_argument(6),
  lifo = ARGV[7] == '1',
  deid = ARGV[8],
  by_pattern = ARGV[9] == '',
}

local planned = redis.call('ZSCORE', key('repeat'), scheduler_id)
if not planned or id ~= 'repeat:' .. scheduler_id .. ':' .. planned then
  return ''
end
local scheduler = redis.call('HMGET', scheduler_key(scheduler_id), 'name', 'data', 'every', 'offset')
local leased = redis.call('HMGET', key(id), 'name', 'data')

if not job.by_pattern then
  local every_ms = whole(scheduler[3], 1) or whole(ARGV[9], 1)
  if not every_ms then
    return ''
  end
  local first_ms = next_of_period(every_ms, whole(scheduler[4], 0), whole(planned, 0) or now_ms, now_ms)
  slots = period_slots(first_ms, every_ms)
end
local ms = free_slot(scheduler_id, slots)
if ms and (ms > DUE_MS_MAX or (end_ms and ms > end_ms)) then
  return ''
end
local settings = read_settings()
if not ms then
  emit_and_trim(settings, 'duplicated', 'jobId', iteration_id(scheduler_id, slots[1]))
  return ''
end

job.name = scheduler[1] or leased[1] or ''
job.data = scheduler[2] or leased[2] or '{}'
if not scheduler[2] and job.data ~= '{}' then
  redis.call('HSET', scheduler_key(scheduler_id), 'data', job.data)
end
redis.call('ZADD', key('repeat'), digits(ms), scheduler_id)
redis.call('HINCRBY', scheduler_key(scheduler_id), 'ic', 1)
local next_id = add_iteration(settings, scheduler_id, ms, now_ms, job)
return next_id
