-- Corrects counts and fingerprints and raises suffix counters, if nothing has changed since they were computed.
--
-- KEYS  after those of common.lua: a group bucket for each counter
-- ARGV  after those of common.lua: 6 sequence number at which they were computed, 7 number of domains, then for each
--       domain: number, live items, fingerprint; then for each counter: its field, least number of assigned suffixes
-- Returns 1, or 0 if something has changed.

if not seeded or other_life then
  return not_seeded()
end
if (redis.call('HGET', meta, 'sequence') or '0') ~= ARGV[6] then
  return answer(0)
end
local last = 7 + 3 * ARGV[7]
redis.call('DEL', counts, fingerprints)
for at = 8, last, 3 do
  redis.call('HSET', counts, ARGV[at], ARGV[at + 1])
  redis.call('HSET', fingerprints, ARGV[at], ARGV[at + 2])
end
for row = 1, (#ARGV - last) / 2 do
  local group, used = ARGV[last + 2 * row - 1], tonumber(ARGV[last + 2 * row])
  if tonumber(redis.call('HGET', KEYS[5 + row], group) or 0) < used then
    redis.call('HSET', KEYS[5 + row], group, used)
  end
end
return answer(1)
