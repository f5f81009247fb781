-- Stores a small text: a checkpoint of resumable work, or that the bundle's catalogue is complete. It must be true of
-- the server that stores it, so nothing is stored in another life.
--
-- KEYS  after those of common.lua: 6 a hash
-- ARGV  after those of common.lua: 6 name, 7 text
-- Returns 1.

if other_life then
  return not_seeded()
end
redis.call('HSET', KEYS[6], ARGV[6], ARGV[7])
return answer(1)
