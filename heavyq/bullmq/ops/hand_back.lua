-- hand_back: return a job to the head of those that wait, with no attempt burnt.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone'
--
-- Mirrors BullMQ 5 and 6, move from active to wait.
-- Differences: ownership and replay as in complete; a prioritized job sets the marker too; while paused, the list
-- in use is kept.

local lease = lease_argument(1)
check_field_pairs(6)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if not leave_active(lease) then
  return 'lost'
end

redis.call('HSET', lease.key, 'hq:settled', lease.token, unpack(ARGV, 6))
local settings = read_settings()
if job.priority > 0 then
  prioritize_first(lease.id, job.priority)
else
  push_first(settings, lease.id)
end
mark_ready(settings)
emit_and_trim(settings, 'waiting', 'jobId', lease.id, 'prev', 'active')
return 'settled'
