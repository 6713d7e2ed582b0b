-- add: store a job and put it where it waits.
-- Uses: adding
--
-- KEYS[1]  meta
-- ARGV     1 name  2 data (JSON)  3 opts (JSON)  4 timestamp (ms)  5 delay (ms)  6 priority (0: none)
--          7 lifo ('1' or '0')  8 job id ('': the next number)
-- Returns  {id, 1 if a job of that id was there already, else 0}
--
-- Mirrors BullMQ 5 and 6, add of a standard, delayed or prioritized job.
-- Differences: one script for the three kinds; while paused, the list in use is kept. No parent,
-- no deduplication, no scheduler here.

local job = {
  name = ARGV[1],
  data = ARGV[2],
  opts = ARGV[3],
  timestamp_ms = number_argument(4),
  delay_ms = number_argument(5),
  priority = number_argument(6),
  lifo = ARGV[7] == '1',
}
local wanted_id = ARGV[8]

local settings = read_settings()
local number = digits(redis.call('INCR', key('id'))) -- counts every add, also those that do not use it
local id = wanted_id ~= '' and wanted_id or number
if wanted_id ~= '' and redis.call('EXISTS', key(id)) == 1 then
  emit_and_trim(settings, 'duplicated', 'jobId', id)
  return { id, 1 }
end
store_job(id, job)
place_job(settings, id, job)
return { id, 0 }
