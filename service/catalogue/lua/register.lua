-- Registers a batch atomically: existing items keep their ID, new ones get the next suffix of their group.
--
-- KEYS  after those of common.lua, for each item: its item, group and content bucket
-- ARGV  after those of common.lua: 6 suffixes of the layout, 7 name of the call, then for each item: field, base ID,
--       state, content
--   field  two bytes of domain number and the item_id
--   state  "L" without a title, "T" and the title with one
-- Returns for each item its 8 bytes of ID and "1" if it was not live before the first attempt of the call, else "0"; ""
-- if its group is full.

if not seeded or other_life then
  return not_seeded()
end
local suffixes, call = tonumber(ARGV[6]), ARGV[7]
local rows = (#ARGV - 7) / 4
local met, before = {}, nil

-- The suffix occupies the lowest bits of an ID, which are zero in the base, so no carry can occur.
local function with_suffix(base, suffix)
  return base:sub(1, 6)
    .. string.char(base:byte(7) + math.floor(suffix / 256))
    .. string.char(base:byte(8) + suffix % 256)
end

local answers = {}
for row = 1, rows do
  local items, groups, contents = KEYS[3 * row + 3], KEYS[3 * row + 4], KEYS[3 * row + 5]
  local field, base, state, content = unpack(ARGV, 4 * row + 4, 4 * row + 7)
  local value = redis.call('HGET', items, field)
  local id, created
  if value then
    id, created = value:sub(1, 8), value:sub(9, 9) == 'D'
  else
    local group = field:sub(1, 2) .. base
    local suffix = tonumber(redis.call('HGET', groups, group) or 0)
    if suffix < suffixes then
      redis.call('HSET', groups, group, suffix + 1)
      id, created = with_suffix(base, suffix), true
    end
  end
  if id then
    local stored_content = redis.call('HGET', contents, field) or ''
    if value ~= id .. state or stored_content ~= content then
      redis.call('HSET', items, field, id .. state)
      if content == '' then
        redis.call('HDEL', contents, field)
      else
        redis.call('HSET', contents, field, content)
      end
      record(field, call, created)
    end
    if created then
      count(field, id, 1)
    elseif not met[field] then
      before = before or done_before(call, rows)
      created = before[field]
    end
    met[field] = true
    answers[row] = id .. (created and '1' or '0')
  else
    answers[row] = ''
  end
end
settle()
return answer(answers)
