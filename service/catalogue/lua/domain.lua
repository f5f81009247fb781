-- Numbers a domain: the number it has, or the next free one.
--
-- KEYS  1 domain numbers
-- ARGV  1 name of the domain, 2 how many numbers there are
-- Answers the number. One that is not below ARGV[2] says that all are given away, and is not kept for a new name.

local number = redis.call('HGET', KEYS[1], ARGV[1])
if number then
  return tonumber(number)
end
number = redis.call('HLEN', KEYS[1])
if number < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], number)
end
return number
