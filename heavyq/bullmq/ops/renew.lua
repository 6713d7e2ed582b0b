-- renew: push back the expiry of many leases' locks, and hear which jobs are to be cancelled.
--
-- KEYS[1]  meta
-- ARGV     1 lock duration (ms); then for each lease 1 id  2 token  3 fence  4 ats  5 processedOn
-- Returns  {the tokens of the leases that are lost, tokens and reasons of those whose job is to be cancelled}
--          (tokens: a job may have been lost and leased again by one worker)
--
-- Mirrors BullMQ 5 and 6, extend locks.
-- Difference: a lock that has expired is made anew while the job is still ours.

local lock_ms = number_argument(1)
if (#ARGV - 1) % 5 ~= 0 then
  error('heavyq: a lease is five arguments')
end

-- Decided for all before the first write; and that write is one which a server that is out of memory takes, so
-- that a full Redis costs no lease (what a script does after its first write is not refused any more).
local lost, kept, cancelled = {}, {}, {}
for n = 2, #ARGV, 5 do
  local lease = lease_argument(n)
  local holder = redis.call('GET', lease.lock)
  if holder == lease.token or (not holder and is_ours(lease)) then
    kept[#kept + 1] = lease
    local reason = redis.call('HGET', lease.key, 'hq:cancel')
    if reason then
      cancelled[#cancelled + 1] = lease.token
      cancelled[#cancelled + 1] = reason
    end
  else
    lost[#lost + 1] = lease.token
  end
end
for _, lease in ipairs(kept) do
  redis.call('SREM', key('stalled'), lease.id)
end
for _, lease in ipairs(kept) do
  redis.call('SET', lease.lock, lease.token, 'PX', lock_ms)
end
return { lost, cancelled }
