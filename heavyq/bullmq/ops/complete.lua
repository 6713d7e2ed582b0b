-- complete: the job ended well.
-- Uses: adding ending
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7 returnvalue (JSON)
--          8 keep count (-1: all)  9 keep age in s ('': any)  10 limit of the age rule
--          11... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone', or 'refused' (children pending or failed: nothing is written)
--
-- Mirrors BullMQ 5 and 6, move to finished, completed, without fetching the next job.
-- Differences: an expired lock counts while the job is still ours; a replay answers as the first call did; the
-- checkpoint and the strikes go; retention removes the oldest first, at most 1,000, and nothing that a parent
-- waits for; a freed place at the global concurrency sets the marker. A parent's books are not kept here.

local lease, now_ms, returnvalue, keep = lease_argument(1), number_argument(6), ARGV[7], keep_argument(8)
check_field_pairs(11)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if redis.call('EXISTS', lease.key .. ':dependencies', lease.key .. ':unsuccessful') > 0 then
  return 'refused'
end
if not leave_active(lease, 'hq:checkpoint', 'hq:strikes') then
  return 'lost'
end

local settings = read_settings()
finish(settings, lease, job, {
  set = 'completed', field = 'returnvalue', value = returnvalue, now_ms = now_ms, keep = keep, pairs_from = 11,
})
emit_if_drained()
mark_freed_place(settings)
return 'settled'
