-- renew: push back the expiry of many leases' locks.
--
-- KEYS[1]  meta
-- ARGV     1 lock duration (ms); then for each lease 1 id  2 token  3 fence  4 ats  5 processedOn
-- Returns  the ids of the leases that are lost
--
-- Mirrors BullMQ 5 and 6, extend locks (protocol 7.11).
-- Difference: a lock that has expired is made anew while the job is still ours.

local lock_ms = number_argument(1)
if (#ARGV - 1) % 5 ~= 0 then
  error('heavyq: a lease is five arguments')
end

local lost, kept = {}, {}
for n = 2, #ARGV, 5 do
  local id, token = ARGV[n], ARGV[n + 1]
  local holder = redis.call('GET', lock_key(id))
  if holder == token or (not holder and is_ours(lease_argument(n))) then
    redis.call('SET', lock_key(id), token, 'PX', lock_ms)
    kept[#kept + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #kept > 0 then
  redis.call('SREM', key('stalled'), unpack(kept))
end
return lost
