-- Deletes one item, leaving a tombstone that holds its ID.
--
-- KEYS  after those of common.lua: 5 item bucket, 6 content bucket
-- ARGV  after those of common.lua: 3 field (two bytes of domain number and the item_id)
-- Answers 1, or 0 where the item was not live.

if not seeded or other_life then
  return not_seeded()
end
local field = ARGV[3]
local value = redis.call('HGET', KEYS[5], field)
if not value or value:sub(9, 9) == 'D' then
  return 0
end
redis.call('HSET', KEYS[5], field, value:sub(1, 8) .. 'D')
redis.call('HDEL', KEYS[6], field)
count(field, value:sub(1, 8), -1)
record(field)
settle()
return 1
