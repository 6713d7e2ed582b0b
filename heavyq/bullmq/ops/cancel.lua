-- cancel: a job that waits fails at once; one that runs is told to stop by the worker that has it.
-- Uses: places adding parents ending
--
-- KEYS[1]  meta
-- ARGV     1 id  2 now (ms)  3 failedReason (text)
--          4 keep count (-1: all)  5 keep age in s ('': any)  6 limit of the age rule
--          7 hq:failure (JSON) behind its first member, `ats`, which only the hash knows
--          8 the reason as it was given, for the worker
-- Returns  'failed', 'asked', 'over' (it had ended), 'gone', or 'scheduled': nothing is written, for the next runs
--          of its scheduler hang on it
--
-- Mirrors no script of BullMQ. What is left is what a failed job leaves there, with no attempt made.

local id, now_ms, reason, keep = ARGV[1], number_argument(2), ARGV[3], keep_argument(4)
local failure_tail, given_reason = ARGV[7], ARGV[8]

if not job_exists(id) then
  return 'gone'
end
if redis.call('LPOS', key('active'), id) then
  redis.call('HSET', key(id), 'hq:cancel', given_reason)
  return 'asked'
end

if is_scheduled_next(id) then
  return 'scheduled'
end
local found = redis.call('HMGET', key(id), 'ats', 'deid', 'parentKey', 'parent')

-- Where the job waits, and how it leaves there; nil if it waits nowhere.
local function find_waiting()
  for _, set in ipairs({ 'delayed', 'prioritized', 'waiting-children' }) do
    if redis.call('ZSCORE', key(set), id) then
      return set, function()
        redis.call('ZREM', key(set), id)
      end
    end
  end
  for _, list in ipairs({ 'wait', 'paused' }) do
    if redis.call('LPOS', key(list), id, 'RANK', -1) then
      return 'waiting', function()
        redis.call('LREM', key(list), -1, id)
      end
    end
  end
  return nil
end

local prev, leave = find_waiting()
if not prev then
  return 'over'
end
local settings = read_settings()
local ending = {
  set = 'failed', prev = prev, field = 'failedReason', value = reason, now_ms = now_ms, keep = keep,
  fields = { 'hq:failure', '{"ats":' .. digits(integer(found[1])) .. ',' .. failure_tail },
  metrics_points = 0,
}
redis.call('HDEL', key(id), 'defa', 'hq:strikes') -- takes no memory: a full server accepts what follows
place_ended(id, ending)
leave()
finish(settings, id, { deduplication_id = found[2], parent_key = found[3], parent = found[4] }, ending)
return 'failed'
