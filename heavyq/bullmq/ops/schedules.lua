-- schedules.lua: when a job scheduler's next job is due, and how that job is stored. Needs adding.lua before it.

local SLOTS = 32 -- how many moments in a row are tried for one that no job has yet
local MOMENT_MAX = 9007199254740991

local function scheduler_key(scheduler_id)
  return key('repeat:' .. scheduler_id)
end

local function iteration_id(scheduler_id, ms)
  return 'repeat:' .. scheduler_id .. ':' .. digits(ms)
end

-- A number of at least `least`, whole; nil if the text is none, or none that can be reckoned with.
local function whole(text, least)
  local number = tonumber(text or '')
  if number and number >= least and number <= MOMENT_MAX then
    return math.floor(number)
  end
  return nil
end

-- The first moment of a period's grid after now.
local function next_on_grid(every_ms, offset_ms, now_ms)
  local ms = math.floor(now_ms / every_ms) * every_ms + offset_ms
  return ms > now_ms and ms or ms + every_ms
end

-- When a scheduler that has made no job yet is due: at its start, on its grid, or else at once.
local function first_of_period(every_ms, start_ms, offset_ms, now_ms)
  if start_ms then
    return math.max(start_ms, now_ms)
  end
  if offset_ms and offset_ms > 0 then
    return next_on_grid(every_ms, offset_ms, now_ms)
  end
  return now_ms
end

-- When it is due after the moment `previous_ms`; periods that were missed are left out.
local function next_of_period(every_ms, offset_ms, previous_ms, now_ms)
  local ms = previous_ms + every_ms
  if ms < now_ms then
    return next_on_grid(every_ms, offset_ms or 0, now_ms)
  end
  return ms
end

-- The moments to try, in order: a pattern's, which are arguments from `n` on.
local function moments_argument(n)
  local slots = {}
  for i = n, #ARGV do
    slots[#slots + 1] = number_argument(i)
  end
  return slots
end

-- A period's, from its next on.
local function period_slots(first_ms, every_ms)
  local slots = {}
  for n = 0, SLOTS - 1 do
    slots[#slots + 1] = first_ms + n * every_ms
  end
  return slots
end

-- The first of these moments for which there is no job yet; nil if there is one for each of them.
-- freed_id: a job that is about to be deleted.
local function free_slot(scheduler_id, slots, freed_id)
  for _, ms in ipairs(slots) do
    local id = iteration_id(scheduler_id, ms)
    if id == freed_id or redis.call('EXISTS', key(id)) == 0 then
      return ms
    end
  end
  return nil
end

-- Store and place a scheduler's job that is due at `ms`.
-- job: name, data, priority, lifo; opts: its options as JSON without those that depend on the moment; id_text: the
-- scheduler's id as it stands inside a JSON string; by_pattern; deid: '' for none. Returns its id and its delay.
local function add_iteration(settings, scheduler_id, ms, now_ms, job)
  local id = iteration_id(scheduler_id, ms)
  job.timestamp_ms, job.delay_ms = now_ms, math.max(0, ms - now_ms)
  local previous = job.by_pattern and ',"prevMillis":' .. digits(ms) or ''
  job.opts = string.sub(job.opts, 1, -2) .. ',"jobId":"repeat:' .. job.id_text .. ':' .. digits(ms) ..
    '","delay":' .. digits(job.delay_ms) .. previous .. '}'
  redis.call('INCR', key('id'))
  if job.deid ~= '' then
    store_job(id, job, 'rjk', scheduler_id, 'deid', job.deid)
  else
    store_job(id, job, 'rjk', scheduler_id)
  end
  place_job(settings, id, job)
  return id, job.delay_ms
end
