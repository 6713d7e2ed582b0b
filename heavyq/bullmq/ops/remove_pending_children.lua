-- remove_pending_children: those children of a job go that are not over.
-- Uses: parents places removal
--
-- KEYS[1]  meta
-- ARGV     1 id of the parent  2 now (ms)
-- Returns  1 if 1,000 are removed and there may be more, else 0
--
-- Mirrors BullMQ 5 and 6, remove unprocessed children.
-- Differences: as in remove.

local id, now_ms = ARGV[1], number_argument(2)

-- Somebody has it, or it has failed and may be retried.
local function is_spared(child_id)
  return redis.call('EXISTS', lock_key(child_id)) == 1 or redis.call('ZSCORE', key('failed'), child_id) ~= false
end

for _, child_key in ipairs(pending_children(id)) do
  local base, child_id = cut_job_key(child_key)
  if base and not in_queue(base, is_spared, child_id) then
    if removable <= 0 or not in_queue(base, remove_job, child_id, now_ms, pending_children, is_spared) then
      return 1
    end
  end
end
return 0
