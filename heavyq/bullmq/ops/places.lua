-- places.lua: where a job lies, and how ids are taken out of where they lie.
--
-- `wait` and `paused` are one place: what BullMQ 5 moves aside while paused stands to the right of the rest, and
-- so runs before it. Nothing is deleted here: ids are only taken out.

-- BullMQ's word for where a job is; 'unknown' if it lies nowhere.
local function state_of(id)
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

-- Whether an id that somebody typed names a job, and not a structure of the queue's own: `meta` and a scheduler
-- are hashes too, but no add made them, and they lie nowhere.
local function is_job(id)
  return job_exists(id) and (redis.call('HEXISTS', key(id), 'timestamp') == 1 or state_of(id) ~= 'unknown')
end

-- Why a job that is not where a verb needs it cannot be done the verb to: its state, or 'gone'.
local function misplaced(id)
  return is_job(id) and state_of(id) or 'gone'
end

-- Whether a scheduler counts on this job as its next one: without it, it would never make another.
local function is_scheduled_next(id)
  if string.sub(id, 1, 7) ~= 'repeat:' then
    return false
  end
  local scheduler = redis.call('HGET', key(id), 'rjk')
  local planned_ms = scheduler and redis.call('ZSCORE', key('repeat'), scheduler)
  return planned_ms and id == 'repeat:' .. scheduler .. ':' .. digits(tonumber(planned_ms)) or false
end

-- Take one job out of where it lies; the name of that structure, 'unknown' if it lies nowhere.
local function take_out(id)
  for _, set in ipairs({ 'completed', 'waiting-children', 'delayed', 'failed', 'prioritized' }) do
    if redis.call('ZREM', key(set), id) == 1 then
      return set
    end
  end
  for _, list in ipairs({ 'wait', 'paused', 'active' }) do
    if redis.call('LREM', key(list), -1, id) == 1 then
      return list
    end
  end
  return 'unknown'
end

local TAKEN = 'hq:taken\n' -- stands in a list for an id while a script takes several out; no job has such an id

-- Take ids out of a list from its right end on: those that are `wanted(id)`, at most `most`, among the `looked`
-- right-most. Exactly these go, and the others keep their order. They are returned as they stood, from left to right.
local function take_from_list(list, looked, most, wanted)
  local taken, seen = {}, 0
  while seen < looked and #taken < most do
    local ids = redis.call('LRANGE', list, -(seen + math.min(BATCH, looked - seen)), -(seen + 1))
    if #ids == 0 then
      break
    end
    for back = 1, #ids do
      local id = ids[#ids - back + 1]
      if #taken < most and wanted(id) then
        redis.call('LSET', list, -(seen + back), TAKEN)
        taken[#taken + 1] = id
      end
    end
    seen = seen + #ids
  end
  if #taken > 0 then
    redis.call('LREM', list, -#taken, TAKEN)
  end
  for n = 1, math.floor(#taken / 2) do
    taken[n], taken[#taken - n + 1] = taken[#taken - n + 1], taken[n]
  end
  return taken
end

-- The same with a sorted set, from its lowest score on. most: not over BATCH.
local function take_from_set(set, looked, most, wanted)
  local taken, seen = {}, 0
  while seen < looked and #taken < most do
    local ids = redis.call('ZRANGE', set, seen, seen + math.min(BATCH, looked - seen) - 1)
    if #ids == 0 then
      break
    end
    for _, id in ipairs(ids) do
      if #taken < most and wanted(id) then
        taken[#taken + 1] = id
      end
    end
    seen = seen + #ids
  end
  if #taken > 0 then
    redis.call('ZREM', set, unpack(taken))
  end
  return taken
end

-- Make one list, under the name of either, of `wait` and of `paused` to its right. The shorter one moves.
local function join_waiting(into)
  local wait, paused = key('wait'), key('paused')
  local left, right = redis.call('LLEN', wait), redis.call('LLEN', paused)
  if left <= right then
    while left > 0 do
      local ids = redis.call('RPOP', wait, BATCH)
      redis.call('LPUSH', paused, unpack(ids))
      left = left - #ids
    end
  else
    while right > 0 do
      local ids = redis.call('LPOP', paused, BATCH)
      redis.call('RPUSH', wait, unpack(ids))
      right = right - #ids
    end
  end
  local now_in = redis.call('EXISTS', wait) == 1 and wait or paused
  if now_in ~= key(into) and redis.call('EXISTS', now_in) == 1 then
    redis.call('RENAME', now_in, key(into))
  end
end
