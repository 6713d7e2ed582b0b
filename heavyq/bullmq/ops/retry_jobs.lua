-- retry_jobs: many jobs that are over wait again.
-- Uses: parents requeue
--
-- KEYS[1]  meta
-- ARGV     1 'failed' or 'completed': where they are  2 '1': count their attempts anew, else '0'
--          3 how many  4 of those that were over at this moment (ms; '': any)  5 '1': instead these ids: 6..., else '0'
-- Returns  1 if there are more, else 0
--
-- Mirrors BullMQ 6, move jobs to wait.
-- Differences: a job's priority counts; ids may be given; an id without a job is dropped.

local set, reset, most = ARGV[1], ARGV[2] == '1', number_argument(3)
local until_ms = ARGV[4] == '' and '+inf' or number_argument(4)

local function ids_to_retry()
  if ARGV[5] == '1' then
    return { unpack(ARGV, 6) }, false
  end
  local ids = redis.call('ZRANGEBYSCORE', key(set), '-inf', until_ms, 'LIMIT', 0, most + 1)
  local has_more = #ids > most
  ids[most + 1] = nil
  return ids, has_more
end

local ids, has_more = ids_to_retry()
local settings = read_settings()
for _, id in ipairs(ids) do
  if not job_exists(id) then
    redis.call('ZREM', key(set), id)
  elseif redis.call('ZSCORE', key(set), id) then
    run_again(settings, id, set, reset, false)
  end
end
return has_more and 1 or 0
