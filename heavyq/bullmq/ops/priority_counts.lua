-- priority_counts: how many jobs wait with each of some priorities.
--
-- KEYS[1]  meta
-- ARGV     priorities; 0: none
-- Returns  a number for each
--
-- Mirrors BullMQ 5 and 6, get counts per priority.
-- Differences: what BullMQ 5 keeps in `paused` waits without a priority too.

local counts = {}
for n = 1, #ARGV do
  local low = number_argument(n) * SCORE_PER_PRIORITY
  if low == 0 then
    counts[n] = redis.call('LLEN', key('wait')) + redis.call('LLEN', key('paused'))
  else
    counts[n] = redis.call('ZCOUNT', key('prioritized'), low, low + SCORE_PER_PRIORITY - 1)
  end
end
return counts
