-- wait_children: the job waits for its children, with no attempt burnt, and then runs again from the start.
--
-- KEYS[1]  meta
-- ARGV     1 id  2 token  3 fence  4 ats  5 processedOn  6 now (ms)  7... pairs of field and value for the hash
-- Returns  'settled', 'lost', 'gone', or 'failed_children' (nothing is written)
--
-- Mirrors BullMQ 5 and 6, move to waiting children.
-- Differences: ownership and replay as in complete; with nothing to wait for the job goes to the head of those that
-- wait (BullMQ leaves it with its worker, whose run here is over).

local lease, now_ms = lease_argument(1), number_argument(6)
check_field_pairs(7)

local job = read_leased(lease)
local refusal = settle_refusal(lease, job)
if refusal then
  return refusal
end
if redis.call('EXISTS', lease.key .. ':unsuccessful') == 1 then
  return 'failed_children'
end
local has_pending = redis.call('EXISTS', lease.key .. ':dependencies') == 1
if not starts_leaving(lease) then
  return 'lost'
end

local settings = read_settings()
if has_pending then
  redis.call('ZADD', key('waiting-children'), now_ms, lease.id)
else
  place_at_head(settings, lease, job)
end
redis.call('HSET', lease.key, 'hq:settled', lease.token, unpack(ARGV, 7))
keep_cancel(lease.key, job.cancel_reason)
leave_active(lease)
if has_pending then
  emit('waiting-children', 'jobId', lease.id, 'prev', 'active')
  mark_freed_place(settings)
else
  tell_returned(settings, lease)
end
return 'settled'
