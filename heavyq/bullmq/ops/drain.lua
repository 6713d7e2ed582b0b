-- drain: all that waits goes.
-- Uses: parents places removal
--
-- KEYS[1]  meta
-- ARGV     1 now (ms)  2 '1': the delayed jobs too, else '0'
-- Returns  how many jobs were removed; 0: there is nothing left to remove
--
-- Mirrors BullMQ 5 and 6, drain.
-- Differences: exactly the removed jobs leave their list, so a scheduler's next job keeps its place; at most 1,000
-- in one call; a parent in another queue is released by its own delay and priority.

local now_ms, with_delayed = number_argument(1), ARGV[2] == '1'
local removed = 0

local function is_free(id)
  return not is_scheduled_next(id)
end

local function drop_all(ids)
  for _, id in ipairs(ids) do
    removed = removed + drop_job(id, now_ms)
  end
end

for _, list in ipairs({ 'wait', 'paused' }) do
  drop_all(take_from_list(key(list), math.huge, BATCH - removed, is_free))
end
for _, set in ipairs(with_delayed and { 'delayed', 'prioritized' } or { 'prioritized' }) do
  drop_all(take_from_set(key(set), math.huge, BATCH - removed, is_free))
end
return removed
