-- requeue.lua: how a job that is over, or delayed, comes to wait again. Needs parents.lua before it for the former.

-- Whether the options in a job's hash ask for the place before all others; what cannot be read asks for nothing.
local function asks_lifo(id)
  local ok, opts = pcall(cjson.decode, redis.call('HGET', key(id), 'opts') or '')
  return ok and type(opts) == 'table' and opts.lifo == true
end

-- Put a job where it waits, by its priority; the caller takes it out of where it was and then marks the queue. first:
-- before its equals.
local function place_again(settings, id, first)
  local priority = integer(redis.call('HGET', key(id), 'priority'))
  if priority > 0 then
    (first and prioritize_first or prioritize_last)(id, priority)
  else
    (first and push_first or push_last)(settings, id)
  end
end

-- A job that lies in `set` ('completed' or 'failed') waits again, and its parent for it. reset: its attempts
-- are counted anew, and what was told about a run goes too (it is known by the run's number). lifo: before all
-- others, if it has no priority.
local function run_again(settings, id, set, reset, lifo)
  place_again(settings, id, lifo and integer(redis.call('HGET', key(id), 'priority')) <= 0)
  redis.call('ZREM', key(set), id)
  redis.call('HDEL', key(id), 'finishedOn', 'processedOn', set == 'failed' and 'failedReason' or 'returnvalue')
  if reset then
    redis.call('HDEL', key(id), 'atm', 'ats', 'attemptsMade', 'hq:failure', 'hq:usage')
  end
  local parent_key = find_parent(id)
  if parent_key then
    do_aside(take_back_child, parent_key, key(id), set)
  end
  mark_ready(settings)
  emit_and_trim(settings, 'waiting', 'jobId', id, 'prev', set)
end
