-- clean: jobs of one state that are old enough go.
-- Uses: parents places removal
--
-- KEYS[1]  meta
-- ARGV     1 state  2 now (ms)  3 least age (ms)  4 how many may go (0: any number)
-- Returns  ids of those that went, at most 1,000
--
-- Mirrors BullMQ 5 and 6, clean jobs in set.
-- Differences: moments are compared as numbers; `wait` and `paused` are one; exactly the removed jobs leave their
-- list; a freed place at the global concurrency sets the marker; at most 1,000 in one call.

local state, now_ms, limit = ARGV[1], number_argument(2), number_argument(4)
local cutoff_ms = now_ms - number_argument(3)
local looked = limit > 0 and limit or math.huge
local most = math.min(looked, BATCH)

-- Which field of a job tells its age: the first of these that it has.
local MOMENTS = {
  waiting = { 'finishedOn', 'processedOn', 'timestamp' },
  active = { 'finishedOn', 'processedOn', 'timestamp' },
  delayed = { 'processedOn', 'timestamp' },
  prioritized = { 'timestamp' },
}

-- Whether a job is old enough. One that tells no moment is.
local function is_old(id)
  local told = redis.call('HMGET', key(id), unpack(MOMENTS[state]))
  for n = 1, #MOMENTS[state] do
    if told[n] then
      return (tonumber(string.match(told[n], '^%s*([+-]?%d+)')) or 0) <= cutoff_ms
    end
  end
  return true
end

local function may_go(id)
  return is_old(id) and not is_scheduled_next(id)
end

local function is_left(id)
  return redis.call('EXISTS', lock_key(id)) == 0 and may_go(id)
end

local function take_old()
  if state == 'waiting' then -- what would run next first: `paused` stands to the right
    local moved_aside = take_from_list(key('paused'), looked, most, may_go)
    local seen = math.min(redis.call('LLEN', key('paused')) + #moved_aside, looked)
    local ids = take_from_list(key('wait'), looked - seen, most - #moved_aside, may_go)
    for _, id in ipairs(moved_aside) do
      ids[#ids + 1] = id
    end
    return ids
  end
  if state == 'active' then
    return take_from_list(key('active'), looked, most, is_left)
  end
  if MOMENTS[state] then
    return take_from_set(key(state), looked, most, may_go)
  end
  local ids = redis.call('ZRANGEBYSCORE', key(state), '-inf', cutoff_ms, 'LIMIT', 0, most)
  if #ids > 0 then
    redis.call('ZREM', key(state), unpack(ids))
  end
  return ids
end

local ids = take_old()
for _, id in ipairs(ids) do
  drop_job(id, now_ms)
end
if state == 'active' and #ids > 0 then
  mark_freed_place(read_settings())
end
emit('cleaned', 'count', digits(#ids))
return ids
