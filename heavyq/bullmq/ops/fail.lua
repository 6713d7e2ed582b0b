-- fail: the job failed for good.
-- Uses: adding parents ending
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7 failedReason (text)
--          8 keep count (-1: all)  9 keep age in s ('': any)  10 limit of the age rule
--          11 attempts that the job's options allow (0: not said)
--          12 minutes that metrics are kept (0: no metrics)
--          13... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone'
--
-- Mirrors BullMQ 5 and 6, move to finished, failed, without fetching the next job.
-- Differences: as in complete; the checkpoint stays, for a retry by hand, and the strikes go, for its sake too.

local lease, now_ms, reason, keep = lease_argument(1), number_argument(6), ARGV[7], keep_argument(8)
local attempts, metrics_points = number_argument(11), number_argument(12)
check_field_pairs(13)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if not starts_leaving(lease) then
  return 'lost'
end

local settings = read_settings()
local ending = {
  set = 'failed', prev = 'active', field = 'failedReason', value = reason, now_ms = now_ms, keep = keep,
  fields = settled_fields(lease, job, 13), metrics_points = metrics_points,
}
place_ended(lease.id, ending)
leave_active(lease, 'defa', 'hq:strikes')
finish(settings, lease.id, job, ending)
local attempts_made = job.attempts_made + 1
if attempts_made >= attempts then
  emit('retries-exhausted', 'jobId', lease.id, 'attemptsMade', digits(attempts_made))
end
emit_if_drained()
mark_freed_place(settings)
return 'settled'
