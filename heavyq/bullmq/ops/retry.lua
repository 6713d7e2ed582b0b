-- retry: this attempt failed; the job waits again at once.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7 lifo ('1' or '0')
--          8... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone'
--
-- Mirrors BullMQ 5 and 6, retry job.
-- Differences: ownership and replay as in complete; due jobs are promoted once the lease is known to be held, so
-- that a lost lease writes nothing; while paused, the list in use is kept.

local lease, now_ms, lifo = lease_argument(1), number_argument(6), ARGV[7] == '1'
check_field_pairs(8)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if not starts_leaving(lease) then
  return 'lost'
end

local settings = read_settings()
promote_due(settings, now_ms)
if job.priority > 0 then
  prioritize_last(lease.id, job.priority)
elseif lifo then
  push_first(settings, lease.id)
else
  push_last(settings, lease.id)
end
redis.call('HSET', lease.key, 'atm', digits(job.attempts_made + 1), 'hq:settled', lease.token, unpack(ARGV, 8))
keep_cancel(lease.key, job.cancel_reason)
leave_active(lease)
tell_returned(settings, lease)
return 'settled'
