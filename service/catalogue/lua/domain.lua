-- Numbers a domain: the number it has, or the next free one.
--
-- KEYS  1 domain numbers
-- ARGV  1 name of the domain

local number = redis.call('HGET', KEYS[1], ARGV[1])
if number then
  return tonumber(number)
end
number = redis.call('HLEN', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], number)
return number
