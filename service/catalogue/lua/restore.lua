-- Inserts items with their existing IDs: from the bundle's catalogue, a backup, or a replica's memory.
--
-- KEYS  after those of common.lua, for each item: its item, group and content bucket
-- ARGV  after those of common.lua: 6 how, then for each item: field, base ID, suffix, ID, state, content
--   how    "seed"     does nothing once seeding is finished; IDs of a group come in any order
--          "restore"  at any time; an ID must lie above all that its group has assigned
--          "dry"      as "restore", but changes nothing
--   field  two bytes of domain number and the item_id
--   state  "L" live without a title, "T" and the title, "D" deleted
-- Returns for each item "there", "added", "other ID" or "ID given"; nothing for "seed" once seeding is finished.

if other_life then
  return not_seeded()
end
local how = ARGV[6]
if how == 'seed' and seeded then
  return answer({})
end
local outcomes = {}
for row = 1, (#ARGV - 6) / 6 do
  local items, groups, contents = KEYS[3 * row + 3], KEYS[3 * row + 4], KEYS[3 * row + 5]
  local field, base, suffix, id, state, content = unpack(ARGV, 6 * row + 1, 6 * row + 6)
  local value = redis.call('HGET', items, field)
  local group = field:sub(1, 2) .. base
  local used = tonumber(redis.call('HGET', groups, group) or 0)
  suffix = tonumber(suffix)
  if value then
    outcomes[row] = value:sub(1, 8) == id and 'there' or 'other ID'
  elseif how ~= 'seed' and used > suffix then
    outcomes[row] = 'ID given'
  else
    outcomes[row] = 'added'
    if how ~= 'dry' then
      redis.call('HSET', items, field, id .. state)
      if content ~= '' then
        redis.call('HSET', contents, field, content)
      end
      if used <= suffix then
        redis.call('HSET', groups, group, suffix + 1)
      end
      if state ~= 'D' then
        count(field, id, 1)
      end
      if seeded then
        record(field)
      end
    end
  end
end
settle()
return answer(outcomes)
