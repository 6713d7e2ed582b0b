-- find: one job, and where it is.
--
-- KEYS[1]  meta
-- ARGV     1 id
-- Returns  {state, fields and values of its hash}, or {} if there is no such job
--
-- Mirrors BullMQ 5 and 6, get state, with the hash read in the same step.
-- Differences: lists are searched from the end at which the job is likely to be. An id without a hash is no job.

local id = ARGV[1]

local function state_of()
  for _, set in ipairs({ 'completed', 'failed', 'delayed', 'prioritized' }) do
    if redis.call('ZSCORE', key(set), id) then
      return set
    end
  end
  if redis.call('LPOS', key('active'), id) then
    return 'active'
  end
  if redis.call('LPOS', key('wait'), id, 'RANK', -1) or redis.call('LPOS', key('paused'), id, 'RANK', -1) then
    return 'waiting'
  end
  return redis.call('ZSCORE', key('waiting-children'), id) and 'waiting-children' or 'unknown'
end

if not job_exists(id) then
  return {}
end
return { state_of(), redis.call('HGETALL', key(id)) }
