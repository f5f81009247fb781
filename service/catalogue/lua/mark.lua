-- Keeps a small text: of work that resumes, or that the bundle's catalogue is complete. What it says must be so of the
-- server that it is said to.
--
-- KEYS  after those of common.lua: 6 a hash
-- ARGV  after those of common.lua: 6 name, 7 text
-- Answers 1.

if other_life then
  return not_seeded()
end
redis.call('HSET', KEYS[6], ARGV[6], ARGV[7])
return answer(1)
