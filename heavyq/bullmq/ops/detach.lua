-- detach: the job is its parent's child no longer; a parent that waited for it alone runs.
-- Uses: parents
--
-- KEYS[1]  meta
-- ARGV     1 id  2 now (ms)
-- Returns  1, 0: the parent did not wait for it, nothing is written; 'no job', 'no parent'
--
-- Mirrors BullMQ 5 and 6, remove child dependency.
-- Difference: the parent goes where its delay and priority say.

local id, now_ms = ARGV[1], number_argument(2)
if not job_exists(id) then
  return 'no job'
end
local parent_key = find_parent(id)
if not parent_key then
  return 0
end
if redis.call('EXISTS', parent_key) == 0 then
  return 'no parent'
end
if not unlink_child(parent_key, key(id), now_ms) then
  return 0
end
redis.call('HDEL', key(id), 'parentKey', 'parent')
return 1
