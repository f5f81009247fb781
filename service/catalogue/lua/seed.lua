-- Stores items of the bundle's catalogue with the IDs they have; may be repeated, does nothing once seeding is finished.
--
-- KEYS  1 meta, 2 counts by domain, then for each item: its item, group and content bucket
-- ARGV  for each item: field, base ID, suffix, ID, title, content (field and title as in register.lua)
-- Answers the number of the first item that is stored with another ID, or 0.

if redis.call('HGET', KEYS[1], 'seeded') then
  return 0
end
for row = 1, #ARGV / 6 do
  local items, groups, contents = KEYS[3 * row], KEYS[3 * row + 1], KEYS[3 * row + 2]
  local field, base, suffix, id, title, content = unpack(ARGV, 6 * row - 5, 6 * row)
  local value = redis.call('HGET', items, field)
  if value and value:sub(1, 8) ~= id then
    return row
  end
  if not value then
    redis.call('HSET', items, field, id .. title)
    if content ~= '' then
      redis.call('HSET', contents, field, content)
    end
    redis.call('HINCRBY', KEYS[2], field:sub(1, 2), 1)
    local group = field:sub(1, 2) .. base
    local used = tonumber(redis.call('HGET', groups, group) or 0)
    if used <= tonumber(suffix) then
      redis.call('HSET', groups, group, suffix + 1)
    end
  end
end
return 0
