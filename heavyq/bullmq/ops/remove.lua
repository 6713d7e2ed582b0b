-- remove: one job goes, and with it its children.
-- Uses: parents places removal
--
-- KEYS[1]  meta
-- ARGV     1 id  2 now (ms)  3 '1': its children too, else '0'
-- Returns  'removed' (also if there was none), 'locked', 'scheduled' (nothing is removed), or 'more': 1,000
--          descendants are, and the job is still there
--
-- Mirrors BullMQ 5 and 6, remove job.
-- Differences: a parent is released by its own delay and priority; a freed place at the global concurrency sets the
-- marker; at most 1,000 in one call.

local id, now_ms, with_children = ARGV[1], number_argument(2), ARGV[3] == '1'
if redis.call('EXISTS', key(id)) == 1 and not is_job(id) then
  return 'removed' -- no job, but a structure of the queue's own
end
if is_scheduled_next(id) then
  return 'scheduled'
end
if redis.call('EXISTS', lock_key(id)) == 1 or (with_children and is_tree_locked(key(id))) then
  return 'locked'
end
return remove_job(id, now_ms, with_children and children_of_all_kinds) and 'removed' or 'more'
