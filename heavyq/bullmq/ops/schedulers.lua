-- schedulers: some of a queue's job schedulers, in the order in which they are due.
--
-- KEYS[1]  meta
-- ARGV     1 offset  2 most schedulers to return  3 '1': the one that is due last first, else '0'
-- Returns  {id, its next moment (ms), fields and values of its hash} of each
--
-- Mirrors BullMQ 5 and 6, get job schedulers.
-- Differences: an id without a hash (BullMQ 2's repeatable jobs) is left out.

local offset, most = number_argument(1), number_argument(2)
if most == 0 then
  return {} -- a range of nothing would read as one of everything
end

local command = ARGV[3] == '1' and 'ZREVRANGE' or 'ZRANGE'
local found = redis.call(command, key('repeat'), offset, offset + most - 1, 'WITHSCORES')
local schedulers = {}
for i = 1, #found, 2 do
  local fields = redis.call('HGETALL', key('repeat:' .. found[i]))
  if #fields > 0 then
    schedulers[#schedulers + 1] = { found[i], found[i + 1], fields }
  end
end
return schedulers
