-- removal.lua: how jobs are deleted, and what that does to their parents and children. Needs parents.lua and
-- places.lua before it.
--
-- By hand, one by one (`remove_job`): the parent is released as if the child had ended, and children go along.
-- With many others (`drop_job`): silently; a parent that waited for nothing else goes too if it is of the same
-- queue, and is released if it is of another. Neither asks whether somebody holds the job: the verbs do.

-- Let a job's deduplication id go, if it is the one that holds it, and what was kept back under it.
local function free_deduplication(id)
  local deduplication_id = redis.call('HGET', key(id), 'deid')
  if deduplication_id and redis.call('GET', key('de:' .. deduplication_id)) == id then
    redis.call('DEL', key('de:' .. deduplication_id), key('dn:' .. deduplication_id))
  end
end

-- Delete a job with all that is its own; whether there was one. Under the id of no job there may be leftovers of one,
-- or a structure of the queue's own: that stays.
local function wipe(id)
  local kind = redis.call('TYPE', key(id)).ok
  if kind == 'hash' then
    free_deduplication(id)
  end
  if kind == 'hash' or kind == 'none' then
    delete_job(id)
  end
  return kind == 'hash'
end

----------------------------------------------------------------------------------------------------------
-- One by one

local removable = BATCH -- jobs that this script may still remove

-- Whether somebody has this job, or one of those that it waits for, or that these wait for. By keys, not ids.
local function is_tree_locked(job_key, seen)
  if redis.call('EXISTS', job_key .. ':lock') == 1 then
    return true
  end
  seen = seen or {}
  seen[job_key] = true
  local children = redis.call('SMEMBERS', job_key .. ':dependencies')
  for from = 1, #children, BATCH do
    local locks, dependencies = {}, {}
    for n = from, math.min(from + BATCH - 1, #children) do
      locks[#locks + 1] = children[n] .. ':lock'
      dependencies[#dependencies + 1] = children[n] .. ':dependencies'
    end
    if redis.call('EXISTS', unpack(locks)) > 0 then
      return true
    end
    local has_deeper = redis.call('EXISTS', unpack(dependencies)) > 0
    for n = from, has_deeper and from + #locks - 1 or 0 do
      if not seen[children[n]] and is_tree_locked(children[n], seen) then
        return true
      end
    end
  end
  return false
end

local function children_of_all_kinds(id)
  local job = key(id)
  local keys = redis.call('HKEYS', job .. ':processed')
  for _, more in ipairs({
    redis.call('HKEYS', job .. ':failed'),
    redis.call('ZRANGE', job .. ':unsuccessful', 0, -1),
    redis.call('SMEMBERS', job .. ':dependencies'),
  }) do
    for _, child_key in ipairs(more) do
      keys[#keys + 1] = child_key
    end
  end
  return keys
end

local function pending_children(id)
  return redis.call('SMEMBERS', key(id) .. ':dependencies')
end

-- The parent of a job of this queue waits for it no longer; then its children, by their keys.
local function enter(id, now_ms, children_of)
  local parent_key = job_exists(id) and find_parent(id)
  if parent_key then
    do_aside(unlink_child, parent_key, key(id), now_ms)
  end
  return children_of and children_of(id) or {}
end

-- Delete a job of this queue, whose children are gone.
local function leave(id)
  local place = take_out(id)
  if wipe(id) then
    removable = removable - 1
    local settings = read_settings()
    emit_and_trim(settings, 'removed', 'jobId', id, 'prev', place)
    if place == 'active' then
      mark_freed_place(settings)
    end
  end
end

-- Remove a job of this queue; before it those that `children_of(id)` names, and theirs, but the `spared(id)`. False
-- if they are too many for one script: what is left is as it was, the job itself included. A stack and no
-- recursion: calls through `in_queue` cannot be nested deeply. Books that lead in a circle come to an end.
local function remove_job(id, now_ms, children_of, spared)
  local stack, walked = { { base = QUEUE, id = id } }, {}
  while #stack > 0 do
    local top = stack[#stack]
    if not top.children then
      walked[top.base .. top.id] = true
      top.children, top.next = in_queue(top.base, enter, top.id, now_ms, children_of), 1
    end
    local child_key = top.children[top.next]
    top.next = top.next + 1
    if not child_key then
      in_queue(top.base, leave, top.id)
      stack[#stack] = nil
    elseif not walked[child_key] and redis.call('EXISTS', child_key) == 1 then
      local base, child_id = cut_job_key(child_key)
      if base and not (spared and in_queue(base, spared, child_id)) then
        if removable <= 0 then
          return false
        end
        stack[#stack + 1] = { base = base, id = child_id }
      end
    end
  end
  return true
end

----------------------------------------------------------------------------------------------------------
-- With many others

-- A parent of this queue, which waited for nothing but a job that is no more, may run; no event tells of it.
local function release_silently(id, now_ms)
  if not job_exists(id) or not redis.call('ZSCORE', key('waiting-children'), id) then
    return
  end
  local settings = read_settings()
  local found = redis.call('HMGET', key(id), 'delay', 'priority')
  local delay_ms, priority = integer(found[1]), integer(found[2])
  if delay_ms > 0 then
    push_delayed(id, now_ms + delay_ms)
    redis.call('ZREM', key('waiting-children'), id)
    mark_delayed()
    return
  end
  if priority > 0 then
    prioritize_last(id, priority)
  else
    push_first(settings, id)
  end
  redis.call('ZREM', key('waiting-children'), id)
  mark_ready(settings)
end

-- The parent does not wait for this child any more. Its id, if it is to go too.
local function bereave(parent_key, child_key, now_ms)
  if redis.call('EXISTS', parent_key) == 0 or not is_struck_off(parent_key, child_key)
    or redis.call('EXISTS', parent_key .. ':dependencies') == 1 then
    return nil
  end
  local base, id = cut_job_key(parent_key)
  if base == QUEUE then
    return redis.call('ZREM', key('waiting-children'), id) == 1 and id or nil
  end
  if base then
    in_queue(base, release_silently, id, now_ms)
  end
  return nil
end

-- Delete a job of this queue that was taken out of where it lay, then its parents as far as they go too; how many.
local function drop_job(id, now_ms)
  local dropped = 0
  while id do
    local parent_key, job_key = job_exists(id) and find_parent(id), key(id)
    wipe(id)
    dropped = dropped + 1
    local bereaved = nil
    if parent_key then
      do_aside(function()
        bereaved = bereave(parent_key, job_key, now_ms)
      end)
    end
    id = bereaved
  end
  return dropped
end
