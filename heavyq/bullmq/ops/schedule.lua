-- schedule: make a job scheduler, or change it, and plan its next job.
-- Uses: adding schedules
--
-- KEYS[1]  meta
-- ARGV     1 scheduler id  2 the same inside a JSON string  3 now (ms)  4 name of the jobs
--          5 data (JSON, '': none)  6 template options (JSON, '': none)
--          7 options of the next job (JSON, without those that depend on its moment)
--          8 priority  9 lifo ('1' or '0')  10 every (ms, '': by pattern)  11 pattern  12 time zone  13 limit
--          14 start (ms)  15 end (ms)  16 offset (ms)  (each '': none)  17... moments of the pattern, in order
-- Returns  {id of the next job, its delay (ms)}, or 'taken': there is a job for each moment that was tried
--
-- Mirrors BullMQ 5 and 6, add job scheduler.
-- Differences: the planned job is looked for in `wait` and in `paused`; a moment that has a job already, also an
-- active one, is passed over for the next; nothing is written if all are taken.

local scheduler_id, now_ms = ARGV[1], number_argument(3)
local job = {
  id_text = ARGV[2],
  name = ARGV[4],
  data = ARGV[5] ~= '' and ARGV[5] or '{}',
  opts = ARGV[7],
  priority = number_argument(8),
  lifo = ARGV[9] == '1',
  by_pattern = ARGV[10] == '',
  deid = '',
}
local every_ms = whole(ARGV[10], 1)
local moments = moments_argument(17)
local start_ms, offset_ms = whole(ARGV[14], 0), whole(ARGV[16], 0)

local settings = read_settings()
local planned = redis.call('ZSCORE', key('repeat'), scheduler_id)
local before = redis.call('HMGET', scheduler_key(scheduler_id), 'every', 'offset', 'ic')
local same_period = every_ms ~= nil and tonumber(before[1] or '') == every_ms

-- The lists and sets in which the planned job may wait.
local WAITING = { 'wait', 'paused' }
local SORTED = { 'delayed', 'prioritized' }

local function is_waiting(id)
  for _, list in ipairs(WAITING) do
    if redis.call('LPOS', key(list), id) then
      return true
    end
  end
  for _, set in ipairs(SORTED) do
    if redis.call('ZSCORE', key(set), id) then
      return true
    end
  end
  return false
end

local function remove_waiting(id)
  for _, list in ipairs(WAITING) do
    redis.call('LREM', key(list), 0, id)
  end
  for _, set in ipairs(SORTED) do
    redis.call('ZREM', key(set), id)
  end
  delete_job(id)
end

local replaced = nil
if planned and is_waiting('repeat:' .. scheduler_id .. ':' .. planned) then
  replaced = 'repeat:' .. scheduler_id .. ':' .. planned
end

-- The moments that may be taken, the best first.
local function slots()
  if not every_ms then
    return moments
  end
  local ms = first_of_period(every_ms, start_ms, offset_ms, now_ms)
  local planned_ms = whole(planned, 0)
  if same_period and planned_ms then
    ms = replaced and planned_ms or next_of_period(every_ms, offset_ms or whole(before[2], 0), planned_ms, now_ms)
  end
  return period_slots(ms, every_ms)
end

local ms = free_slot(scheduler_id, slots(), replaced)
if not ms then
  return 'taken'
end
if replaced then
  remove_waiting(replaced)
end
redis.call('ZADD', key('repeat'), digits(ms), scheduler_id)

local offset = ARGV[16]
if offset == '' then
  offset = before[2] or (every_ms and digits(ms % every_ms)) or '0'
end
local fields = { 'name', ARGV[4], 'ic', before[3] or '1', 'offset', offset }
for n, field in pairs({ [5] = 'data', [6] = 'opts', [10] = 'every', [11] = 'pattern', [12] = 'tz', [13] = 'limit',
  [14] = 'startDate', [15] = 'endDate' }) do
  if ARGV[n] ~= '' then
    fields[#fields + 1] = field
    fields[#fields + 1] = ARGV[n]
  end
end
redis.call('DEL', scheduler_key(scheduler_id))
redis.call('HSET', scheduler_key(scheduler_id), unpack(fields))

local id, delay_ms = add_iteration(settings, scheduler_id, ms, now_ms, job)
return { id, delay_ms }
