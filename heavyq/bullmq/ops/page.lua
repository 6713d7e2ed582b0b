-- page: some of the jobs in one state, in order.
--
-- KEYS[1]  meta
-- ARGV     1 state  2 offset  3 most jobs to return  4 '1': from the newest side (the highest score), else '0'
-- Returns  {id, fields and values of its hash} of each job
--
-- Mirrors BullMQ 5 and 6, get ranges.
-- Differences: `wait` and `paused` are one list, in the order in which a resume would leave them;
-- an id without a hash is left out.

local state, offset, most, newest_first = ARGV[1], number_argument(2), number_argument(3), ARGV[4] == '1'

-- Ids of a list that stand at offset and on, seen from the left ('newest first') or from the right.
local function slice(list, from, count)
  if newest_first then
    return redis.call('LRANGE', list, from, from + count - 1)
  end
  local ids = redis.call('LRANGE', list, -(from + count), -(from + 1))
  local reversed = {}
  for i = #ids, 1, -1 do
    reversed[#reversed + 1] = ids[i]
  end
  return reversed
end

-- Ids of two lists as if the second followed the first.
local function slice_of_two(first, second)
  local ids = slice(first, offset, most)
  local from = math.max(offset - redis.call('LLEN', first), 0)
  if #ids < most then
    for _, id in ipairs(slice(second, from, most - #ids)) do
      ids[#ids + 1] = id
    end
  end
  return ids
end

local function ids_in_state()
  if most == 0 then
    return {} -- a range of nothing would read as one of everything
  end
  if state == 'waiting' then
    if newest_first then
      return slice_of_two(key('wait'), key('paused'))
    end
    return slice_of_two(key('paused'), key('wait'))
  end
  if state == 'active' then
    return slice(key('active'), offset, most)
  end
  local command = newest_first and 'ZREVRANGE' or 'ZRANGE'
  return redis.call(command, key(state), offset, offset + most - 1)
end

local jobs = {}
for _, id in ipairs(ids_in_state()) do
  if job_exists(id) then
    jobs[#jobs + 1] = { id, redis.call('HGETALL', key(id)) }
  end
end
return jobs
