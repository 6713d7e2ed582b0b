-- update_data: a job gets another payload.
-- Uses: places
--
-- KEYS[1]  meta
-- ARGV     1 id  2 data (JSON)
-- Returns  'done', 'gone'
--
-- Mirrors BullMQ 5 and 6, update data.

if not is_job(ARGV[1]) then
  return 'gone'
end
redis.call('HSET', key(ARGV[1]), 'data', ARGV[2])
return 'done'
