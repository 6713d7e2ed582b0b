-- find: one job, and where it is.
-- Uses: places
--
-- KEYS[1]  meta
-- ARGV     1 id
-- Returns  {state, fields and values of its hash}, or {} if there is no such job
--
-- Mirrors BullMQ 5 and 6, get state, with the hash read in the same step.
-- Differences: lists are searched from the end at which the job is likely to be. An id without a hash is no job.

local id = ARGV[1]

if not job_exists(id) then
  return {}
end
return { state_of(id), redis.call('HGETALL', key(id)) }
