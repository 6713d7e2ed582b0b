-- close_flow: the last step of a flow's insert, once for each parent.
-- Uses: parents
--
-- KEYS[1]  meta of the parent's queue
-- ARGV     1 the parent's id  2 now (ms)
-- Returns  1 if the parent was released, else 0
--
-- Mirrors BullMQ 6, the closing of a flow; BullMQ 5 has none.

local id, now_ms = ARGV[1], number_argument(2)
local parent = key(id)

if redis.call('HDEL', parent, 'flowAttachmentFailed') == 1 then
  return 0 -- a child that it names is another's: it has to wait
end
if redis.call('SCARD', parent .. ':dependencies') > 0 then
  return 0
end
return release_parent(parent, now_ms) and 1 or 0
