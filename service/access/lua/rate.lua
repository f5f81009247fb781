-- A token bucket (service/rates.py). KEYS: the bucket. ARGV: items a second, capacity, cost.
-- Returns whether the cost was taken (1 or 0), and the level as text, since Redis truncates Lua numbers to integers.
local rate, capacity, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The clock of the Redis server, because the clocks of the replicas may differ.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local held = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(held[1]) or capacity, tonumber(held[2]) or now
level = math.min(capacity, level + math.max(0, now - at) / 1000000 * rate)
local granted = 0
if cost < 0 or level >= math.min(cost, capacity) then
  -- The bucket may have filled since the items that are put back were taken.
  level, granted = math.min(capacity, level - cost), 1
end
redis.call('HSET', KEYS[1], 'level', string.format('%.17g', level), 'at', string.format('%.0f', now))
-- A missing bucket counts as full, so it may expire once it is full.
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - level) / rate * 1000) + 1000)
return {granted, string.format('%.17g', level)}
