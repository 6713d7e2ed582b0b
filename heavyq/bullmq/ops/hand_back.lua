-- hand_back: return a job to the head of those that wait, with no attempt burnt.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn
--          6 ms for which the queue is rate limited from now on ('': it is not)
--          7... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone'
--
-- Mirrors BullMQ 5 and 6, move from active to wait, after setting a rate limit by hand where one is given.
-- Differences: ownership and replay as in complete; a prioritized job sets the marker too; while paused, the list
-- in use is kept.

local lease = lease_argument(1)
local limit_ms = ARGV[6] ~= '' and math.max(1, math.floor(number_argument(6)))
local ALL_STARTED = '9007199254740991' -- more than any limit allows
check_field_pairs(7)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if not starts_leaving(lease) then
  return 'lost'
end

local settings = read_settings()
place_at_head(settings, lease, job)
redis.call('HSET', lease.key, 'hq:settled', lease.token, unpack(ARGV, 7))
keep_cancel(lease.key, job.cancel_reason)
leave_active(lease)
if limit_ms then
  redis.call('SET', key('limiter'), ALL_STARTED, 'PX', digits(limit_ms))
end
tell_returned(settings, lease)
return 'settled'
