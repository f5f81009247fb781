-- Deletes one item, leaving a tombstone that holds its ID.
--
-- KEYS  1 meta, 2 change log, 3 counts by domain, 4 item bucket, 5 content bucket
-- ARGV  1 changes to keep, 2 field (two bytes of domain number and the item_id)
-- Answers 1, or 0 where the item was not live.

if not redis.call('HGET', KEYS[1], 'seeded') then
  return redis.error_reply('NOTSEEDED the catalogue of the bundle is not stored yet')
end
local value = redis.call('HGET', KEYS[4], ARGV[2])
if not value or value:sub(9, 9) == 'D' then
  return 0
end
redis.call('HSET', KEYS[4], ARGV[2], value:sub(1, 8) .. 'D')
redis.call('HDEL', KEYS[5], ARGV[2])
redis.call('HINCRBY', KEYS[3], ARGV[2]:sub(1, 2), -1)
local sequence = redis.call('HINCRBY', KEYS[1], 'sequence', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], string.format('%.0f-0', sequence), 'k', ARGV[2])
return 1
