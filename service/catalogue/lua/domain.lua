-- Assigns a number to a domain: the one it has, or the next free one.
--
-- KEYS  1 domain numbers
-- ARGV  1 name of the domain, 2 how many numbers exist
-- Returns the number. If it is not below ARGV[2], all numbers are in use, and it is not stored for a new name.

local number = redis.call('HGET', KEYS[1], ARGV[1])
if number then
  return tonumber(number)
end
number = redis.call('HLEN', KEYS[1])
if number < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], number)
end
return number
