-- Deletes one item, leaving a tombstone that holds its ID.
--
-- KEYS  after those of common.lua: 6 item bucket, 7 content bucket
-- ARGV  after those of common.lua: 6 field (two bytes of domain number and the item_id), 7 name of the call
-- Returns 1, or 0 if the item was not live before the first attempt of the call.

if not seeded or other_life then
  return not_seeded()
end
local field, call = ARGV[6], ARGV[7]
local value = redis.call('HGET', KEYS[6], field)
if not value or value:sub(9, 9) == 'D' then
  return answer(value and done_before(call, 1)[field] and 1 or 0)
end
redis.call('HSET', KEYS[6], field, value:sub(1, 8) .. 'D')
redis.call('HDEL', KEYS[7], field)
count(field, value:sub(1, 8), -1)
record(field, call, true)
settle()
return answer(1)
