-- add: store a job and put it where it waits.
-- Uses: parents adding
--
-- KEYS[1]  meta
-- ARGV     1 name  2 data (JSON)  3 opts (JSON)  4 timestamp (ms)  5 delay (ms)  6 priority (0: none)
--          7 lifo ('1' or '0')  8 job id ('': the next number)
--          9 '1': its children are added after it, and it waits for them
--          10 '1': its parent is of the same flow, which close_flow will close
--          11 the parent's job key ('': none)  12 the parent as the hash has it (JSON)
--          13 deduplication id ('': none)  14 its time to live (ms, '': none)
--          15 extend  16 replace  17 keep the last while the owner runs  18 reschedule (each '1' or '0')
-- Returns  {id, what came of it}: 0 stored; 1 a job of that id was there already; 2 refused for the job that holds
--          the deduplication id, whose id it is; -5 the parent does not exist; -7 the job has another parent
--
-- Mirrors BullMQ 5 and 6, add of a standard, delayed, prioritized or parent job.
-- Differences: one script for the four kinds; while paused, the list in use is kept. As 6: a deduplication id whose
-- owner is gone is free, `reschedule`, what is kept goes with the owner that is replaced, a child of a parent that
-- is gone is adopted, and close_flow decides on a flow's parents. Unlike both: a delayed job that is replaced leaves
-- its parent, and a failed child that is added again is not waited for again (so an add may be repeated).

local job = {
  name = ARGV[1],
  data = ARGV[2],
  opts = ARGV[3],
  timestamp_ms = number_argument(4),
  delay_ms = number_argument(5),
  priority = number_argument(6),
  lifo = ARGV[7] == '1',
  waits_for_children = ARGV[9] == '1',
}
local wanted_id, in_flow = ARGV[8], ARGV[10] == '1'
local parent = ARGV[11] ~= '' and { key = ARGV[11], field = ARGV[12] } or nil
local dedup = ARGV[13] ~= '' and {
  id = ARGV[13],
  owner = key('de:' .. ARGV[13]),
  kept = key('dn:' .. ARGV[13]),
  extend = ARGV[14] ~= '' and ARGV[15] == '1',
  replace = ARGV[16] == '1',
  keep_last = ARGV[17] == '1',
  reschedule = ARGV[18] == '1',
} or nil
if dedup and ARGV[14] ~= '' then
  local ttl_ms = number_argument(14)
  dedup.ttl_ms = not dedup.keep_last and ttl_ms or nil
end

----------------------------------------------------------------------------------------------------------
-- A job of that id is there already: it stays as it is, and becomes the child of a parent that is named now

-- A child that is completed already brings its value along, and may have been all that the parent waits for. One
-- that was this parent's and has failed is in its books as its failure said: the parent is not to wait for it again.
local function adopt(id, was_its_child)
  if redis.call('ZSCORE', key('completed'), id) then
    redis.call('HSET', parent.key .. ':processed', key(id), redis.call('HGET', key(id), 'returnvalue') or 'null')
    if not in_flow then
      release_if_none_pending(parent.key, job.timestamp_ms)
    end
  elseif not (was_its_child and redis.call('ZSCORE', key('failed'), id)) then
    redis.call('SADD', parent.key .. ':dependencies', key(id))
  end
  redis.call('HSET', key(id), 'parentKey', parent.key, 'parent', parent.field)
end

local function add_again(settings, id)
  if parent then
    local before = redis.call('HGET', key(id), 'parentKey')
    if before and before ~= parent.key and redis.call('EXISTS', before) == 1 then
      if in_flow then
        redis.call('HSET', parent.key, 'flowAttachmentFailed', '1') -- it would wait for a child that is another's
      end
      return { id, -7 }
    end
    adopt(id, before == parent.key)
  end
  emit_and_trim(settings, 'duplicated', 'jobId', id)
  return { id, 1 }
end

----------------------------------------------------------------------------------------------------------
-- Deduplication: who holds the id, and what a refused add does all the same

-- Let `id` hold the deduplication id, from now for its time to live.
local function hold(id)
  if dedup.ttl_ms then
    redis.call('SET', dedup.owner, id, 'PX', digits(dedup.ttl_ms))
  else
    redis.call('SET', dedup.owner, id)
  end
end

local function tell_deduplicated(settings, id, other)
  emit_and_trim(settings, 'deduplicated', 'jobId', id, 'deduplicationId', dedup.id, 'deduplicatedJobId', other)
end

-- The new job takes the place of an owner that is still delayed; whether it does.
local function replace_delayed(settings, owner, id)
  if redis.call('ZREM', key('delayed'), owner) == 0 then
    return false
  end
  local owners_parent = find_parent(owner)
  if owners_parent then
    unlink_child(owners_parent, key(owner), job.timestamp_ms)
  end
  delete_job(owner)
  emit('removed', 'jobId', owner, 'prev', 'delayed')
  tell_deduplicated(settings, id, owner)
  redis.call('DEL', dedup.kept)
  if dedup.ttl_ms and not dedup.extend then
    redis.call('SET', dedup.owner, id, 'KEEPTTL')
  else
    hold(id)
  end
  return true
end

-- Keep the refused job until its owner, which runs, has ended; the last one counts.
local function keep_last(settings, owner, id)
  redis.call('DEL', dedup.kept)
  redis.call('HSET', dedup.kept, 'name', job.name, 'data', job.data, 'opts', job.opts, 'jid', id)
  redis.call('PERSIST', dedup.owner)
  tell_deduplicated(settings, owner, id)
end

-- The owner, which is still delayed, is due when the refused job would have been.
local function reschedule(settings, owner)
  if not job_exists(owner) or redis.call('ZREM', key('delayed'), owner) == 0 then
    return
  end
  local due_ms = job.timestamp_ms + job.delay_ms
  redis.call('HSET', key(owner), 'delay', digits(job.delay_ms))
  push_delayed(owner, due_ms)
  emit_and_trim(settings, 'delayed', 'jobId', owner, 'delay', digits(due_ms))
  mark_delayed()
end

-- The job that holds the deduplication id, so that this add is refused; nil if the new job holds it now.
local function find_holder(settings, id)
  local owner = redis.call('GET', dedup.owner)
  if not owner then
    hold(id)
    return nil
  end
  if dedup.replace and replace_delayed(settings, owner, id) then
    return nil
  end
  if redis.call('PTTL', dedup.owner) == -1 and not job_exists(owner) then
    redis.call('DEL', dedup.kept)
    hold(id)
    return nil
  end
  if dedup.keep_last and redis.call('LPOS', key('active'), owner) then
    keep_last(settings, owner, id)
  elseif not dedup.replace then
    if dedup.extend then
      hold(owner)
    end
    tell_deduplicated(settings, owner, id)
    if dedup.reschedule then
      reschedule(settings, owner)
    end
  end
  return owner
end

----------------------------------------------------------------------------------------------------------

if parent and redis.call('TYPE', parent.key).ok ~= 'hash' then
  return { '', -5 }
end
local settings = read_settings()
local number = digits(redis.call('INCR', key('id'))) -- counts every add, also those that do not use it
local id = wanted_id ~= '' and wanted_id or number
if wanted_id ~= '' and redis.call('EXISTS', key(id)) == 1 then
  return add_again(settings, id)
end

local fields = {}
if dedup then
  local owner = find_holder(settings, id)
  if owner then
    return { owner, 2 }
  end
  fields = { 'deid', dedup.id }
elseif parent then
  redis.call('SADD', parent.key .. ':dependencies', key(id))
  fields = { 'parentKey', parent.key, 'parent', parent.field }
end
store_job(id, job, unpack(fields))
place_job(settings, id, job)
return { id, 0 }
