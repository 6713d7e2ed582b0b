-- complete: the job ended well.
-- Uses: adding parents ending
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7 returnvalue (JSON)
--          8 keep count (-1: all)  9 keep age in s ('': any)  10 limit of the age rule
--          11 minutes that metrics are kept (0: no metrics)
--          12... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone', or 'pending_children' or 'failed_children' (nothing is written)
--
-- Mirrors BullMQ 5 and 6, move to finished, completed, without fetching the next job.
-- Differences: an expired lock counts while the job is still ours; a replay answers as the first call did; the
-- checkpoint and the strikes go; retention removes the oldest first, at most 1,000; a parent that retention releases
-- goes where its delay and priority say; a freed place at the global concurrency sets the marker.

local lease, now_ms, returnvalue, keep = lease_argument(1), number_argument(6), ARGV[7], keep_argument(8)
local metrics_points = number_argument(11)
check_field_pairs(12)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job) or children_refusal(lease)
if refusal then
  return refusal
end
if not starts_leaving(lease) then
  return 'lost'
end

local settings = read_settings()
local ending = {
  set = 'completed', prev = 'active', field = 'returnvalue', value = returnvalue, now_ms = now_ms, keep = keep,
  fields = settled_fields(lease, job, 12), metrics_points = metrics_points,
}
place_ended(lease.id, ending)
leave_active(lease, 'hq:checkpoint', 'hq:strikes')
finish(settings, lease.id, job, ending)
emit_if_drained()
mark_freed_place(settings)
return 'settled'
