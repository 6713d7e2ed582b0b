-- parents.lua: a parent's books: which children it waits for, what they came to, and when it runs again.
--
-- A parent is named by its job key and may live in any queue. A child that is no longer in the parent's
-- `:dependencies` is no business of the parent's any more, so each of these may be called twice.

-- The parent that a job's fields name: its key, nil if it has none. parent: JSON, kept by BullMQ beside `parentKey`.
local function parent_key_of(parent_key, parent)
  if parent_key and parent_key ~= '' then
    return parent_key
  end
  if not parent then
    return nil
  end
  local ok, told = pcall(cjson.decode, parent)
  if ok and type(told) == 'table' and type(told.queueKey) == 'string' and type(told.id) == 'string' then
    return told.queueKey .. ':' .. told.id
  end
  return nil
end

-- As parent_key_of, for a job of this queue that is not read yet.
local function find_parent(id)
  local found = redis.call('HMGET', key(id), 'parentKey', 'parent')
  return parent_key_of(found[1], found[2])
end

-- A job key as base ('<prefix>:<queue>:') and id. An id may hold colons (BullMQ allows two, and a scheduler's jobs
-- have them), so the last cut that a queue is known for is taken. Nothing if it is no job key at all.
local function cut_job_key(job_key)
  local base, id = string.match(job_key, '^(.+:.+:)([^:]+)$')
  local shorter = base
  while shorter do
    if redis.call('EXISTS', shorter .. 'meta') == 1 then
      return shorter, string.sub(job_key, #shorter + 1)
    end
    shorter = string.match(shorter, '^(.+:)[^:]*:$')
  end
  return base, id
end

-- What is needed to place a job of this queue, read before the first write, so that a job which cannot be placed
-- stays where it is; nil if there is no such job.
local function read_parent(id)
  if not job_exists(id) then
    return nil
  end
  local found = redis.call('HMGET', key(id), 'delay', 'priority')
  return { id = id, delay_ms = integer(found[1]), priority = integer(found[2]), settings = read_settings() }
end

-- Put a job of this queue, which waits in the set `from` for no child any more, where its delay or its priority says.
local function place_released(parent, from, now_ms)
  if parent.delay_ms > 0 then
    local due_ms = now_ms + parent.delay_ms
    redis.call('ZADD', key('delayed'), due_ms * SCORE_PER_MS, parent.id)
    redis.call('ZREM', key(from), parent.id)
    emit('delayed', 'jobId', parent.id, 'delay', digits(due_ms))
    mark_delayed()
    return
  end
  if parent.priority > 0 then
    prioritize_last(parent.id, parent.priority)
  else
    push_first(parent.settings, parent.id)
  end
  redis.call('ZREM', key(from), parent.id)
  emit('waiting', 'jobId', parent.id, 'prev', 'waiting-children')
  mark_ready(parent.settings)
end

local function release_here(id, now_ms)
  local parent = read_parent(id)
  if not parent or not redis.call('ZSCORE', key('waiting-children'), id) then
    return false
  end
  place_released(parent, 'waiting-children', now_ms)
  return true
end

-- Let a parent run, if it is in `waiting-children`; whether it was.
local function release_parent(parent_key, now_ms)
  local base, id = cut_job_key(parent_key)
  return base ~= nil and in_queue(base, release_here, id, now_ms)
end

local function release_if_none_pending(parent_key, now_ms)
  return redis.call('EXISTS', parent_key .. ':dependencies') == 0 and release_parent(parent_key, now_ms)
end

-- The parent waits for this child no longer; false if it did not.
local function is_struck_off(parent_key, child_key)
  return redis.call('SREM', parent_key .. ':dependencies', child_key) == 1
end

-- A child is completed: its value stays with the parent, which runs when no other is pending.
local function child_completed(parent_key, child_key, returnvalue, now_ms)
  if is_struck_off(parent_key, child_key) then
    redis.call('HSET', parent_key .. ':processed', child_key, returnvalue)
    release_if_none_pending(parent_key, now_ms)
  end
end

-- What a child's failure does to its parent: 'fpof', 'cpof', 'idof', 'rdof'; nil: nothing, the parent waits on.
-- parent: the child's JSON field. What cannot be read says nothing.
local function failure_rule(parent)
  local ok, told = pcall(cjson.decode, parent or '{}')
  if ok and type(told) == 'table' then
    for _, rule in ipairs({ 'fpof', 'cpof', 'idof', 'rdof' }) do
      local value = told[rule]
      if value and value ~= cjson.null and value ~= 0 and value ~= '' then
        return rule
      end
    end
  end
  return nil
end

-- Whoever leases the parent next fails it, without running it. One that waits for nothing but children or a
-- moment is brought there at once.
local function doom_here(id, child_key, now_ms)
  local parent = read_parent(id)
  if not parent then
    return
  end
  local reason = 'child ' .. child_key .. ' failed'
  if redis.call('ZSCORE', key('waiting-children'), id) then
    redis.call('HSET', key(id), 'defa', reason)
    place_released(parent, 'waiting-children', now_ms)
  elseif redis.call('ZSCORE', key('delayed'), id) then
    redis.call('HSET', key(id), 'delay', '0', 'defa', reason)
    parent.delay_ms = 0
    place_released(parent, 'delayed', now_ms)
  elseif not redis.call('ZSCORE', key('failed'), id) then
    redis.call('HSET', key(id), 'defa', reason)
  end
end

local FAILURE_RULES = {
  fpof = function(parent_key, child_key, _, now_ms)
    redis.call('ZADD', parent_key .. ':unsuccessful', now_ms, child_key)
    local base, id = cut_job_key(parent_key)
    if base then
      in_queue(base, doom_here, id, child_key, now_ms)
    end
  end,
  cpof = function(parent_key, child_key, reason, now_ms)
    redis.call('HSET', parent_key .. ':failed', child_key, reason)
    release_parent(parent_key, now_ms)
  end,
  idof = function(parent_key, child_key, reason, now_ms)
    redis.call('HSET', parent_key .. ':failed', child_key, reason)
    release_if_none_pending(parent_key, now_ms)
  end,
  rdof = function(parent_key, _, _, now_ms)
    release_if_none_pending(parent_key, now_ms)
  end,
}

-- A child has failed for good. parent: the child's JSON field, which says what that means for the parent.
local function child_failed(parent_key, child_key, parent, reason, now_ms)
  local rule = failure_rule(parent)
  if rule and is_struck_off(parent_key, child_key) then
    FAILURE_RULES[rule](parent_key, child_key, reason, now_ms)
  end
end

-- The child is gone (removed, or kept no longer): the parent does not wait for it. Whether it did.
local function unlink_child(parent_key, child_key, now_ms)
  if redis.call('EXISTS', parent_key) == 0 or not is_struck_off(parent_key, child_key) then
    return false
  end
  release_if_none_pending(parent_key, now_ms)
  return true
end

-- A finished child is to run again: the parent waits for it anew, without going back to where it waited.
-- set: where the child was, 'completed' or 'failed'. Whether the parent had it in its books.
local function take_back_child(parent_key, child_key, set)
  if redis.call('EXISTS', parent_key) == 0 then
    return false
  end
  local was_known
  if set == 'completed' then
    was_known = redis.call('HDEL', parent_key .. ':processed', child_key) > 0
  else
    local failed = redis.call('ZREM', parent_key .. ':unsuccessful', child_key)
    was_known = failed + redis.call('HDEL', parent_key .. ':failed', child_key) > 0
  end
  if was_known then
    redis.call('SADD', parent_key .. ':dependencies', child_key)
  end
  return was_known
end

-- Do what may fail because of a key that is not this job's: a parent's that is broken, or on another node of a
-- cluster. It must never cost the job its own outcome, so a failure is only told in the server's log.
local function do_aside(act, ...)
  local ok, problem = pcall(act, ...)
  if not ok then
    local told = type(problem) == 'table' and problem.err or tostring(problem)
    redis.log(redis.LOG_WARNING, 'heavyq: ' .. key('') .. ' a parent\'s books could not be kept: ' .. told)
  end
end
