-- delay: the job waits until a later moment: a failed attempt's backoff, or no failure at all.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7 delay (ms)
--          8 '1': count an attempt as made  9... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone'
--
-- Mirrors BullMQ 5 and 6, move to delayed, without fetching the next job.
-- Differences: ownership and replay as in complete; a freed place at the global concurrency sets the marker.

local lease, now_ms, delay_ms = lease_argument(1), number_argument(6), number_argument(7)
local burns_attempt = ARGV[8] == '1'
check_field_pairs(9)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if not starts_leaving(lease) then
  return 'lost'
end

local due_ms = now_ms + delay_ms
local settings = read_settings()
push_delayed(lease.id, due_ms)
redis.call('HSET', lease.key, 'delay', digits(delay_ms), 'hq:settled', lease.token, unpack(ARGV, 9))
if burns_attempt then
  redis.call('HSET', lease.key, 'atm', digits(job.attempts_made + 1))
end
keep_cancel(lease.key, job.cancel_reason)
leave_active(lease)
emit_and_trim(settings, 'delayed', 'jobId', lease.id, 'delay', digits(due_ms))
mark_delayed()
mark_freed_place(settings)
return 'settled'
