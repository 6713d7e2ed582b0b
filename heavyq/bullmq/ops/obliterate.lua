-- obliterate: the queue goes, with all that is in it.
-- Uses: parents places removal
--
-- KEYS[1]  meta
-- ARGV     1 '1': jobs in work too, else '0'
-- Returns  'more' (1,000 jobs are gone: call again), 'over'; 'running' (not paused) or 'active' (jobs in work): nothing
--          is removed
--
-- Mirrors BullMQ 5 and 6, obliterate.
-- Differences: what waits for children goes too, and the rate limit, and heavyq's own. Deduplication ids with a time to
-- live stay until it is over, if their job is.

local force = ARGV[1] == '1'
if redis.call('HEXISTS', KEYS[1], 'paused') == 0 then
  return 'running'
end
if not force and redis.call('EXISTS', key('active')) == 1 then
  return 'active'
end

-- The server's clock: only a parent in another queue, one with a delay of its own, needs it.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local left = BATCH

local function any()
  return true
end

local function drop_all(ids)
  for _, id in ipairs(ids) do
    left = left - drop_job(id, now_ms)
  end
end

local in_work = take_from_list(key('active'), math.huge, left, any)
for _, id in ipairs(in_work) do
  redis.call('DEL', lock_key(id))
end
drop_all(in_work)
drop_all(take_from_set(key('delayed'), math.huge, left, any))
for _, scheduler in ipairs(take_from_set(key('repeat'), math.huge, left, any)) do
  redis.call('DEL', key('repeat:' .. scheduler))
  left = left - 1
end
for _, list in ipairs({ 'wait', 'paused' }) do
  drop_all(take_from_list(key(list), math.huge, left, any))
end
for _, set in ipairs({ 'completed', 'prioritized', 'failed', 'waiting-children' }) do
  drop_all(take_from_set(key(set), math.huge, left, any))
end
if left <= 0 then
  return 'more'
end
redis.call('DEL', KEYS[1], key('events'), key('delay'), key('stalled-check'), key('stalled'), key('id'), key('pc'),
  key('marker'), key('limiter'), key('metrics:completed'), key('metrics:completed:data'), key('metrics:failed'),
  key('metrics:failed:data'), key('priority'), key('hq:counter'))
return 'over'
