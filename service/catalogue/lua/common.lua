-- Common prefix of every script that changes items.
--
-- KEYS  1 meta, 2 change log, 3 counts by domain, 4 fingerprints by domain, 5 numbers of domains; then the script's own
-- ARGV  1 the life of the store that the caller knows, 2 changes to keep, 3 and 4 number and mark of the latest change
--       that the caller knows (its field, and the name of the call that made it), 5 numbers of the domains that the
--       caller has used, by name, as JSON; then the script's own
-- Returns a list: the script's answer and, if it recorded a change, number and mark of the last change.
--
-- Lives: an emptied server begins a new life. What a caller remembers of an earlier life, above all numbers of domains,
-- is invalid, so nothing is changed for such a caller. The same holds for a server that was set back to an older state,
-- such as by a failover to a lagging replica: it lacks changes, and could assign their IDs and domain numbers again.

local meta, log, counts, fingerprints = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kept = ARGV[2]

local seeded = redis.call('HGET', meta, 'seeded')
local other_life = redis.call('HGET', meta, 'life') ~= ARGV[1] or redis.call('HEXISTS', meta, 'dropped') == 1

local set_back = tonumber(redis.call('HGET', meta, 'sequence') or 0) < tonumber(ARGV[3])
for _, entry in ipairs(redis.call('XRANGE', log, ARGV[3] .. '-0', ARGV[3] .. '-0')) do
  set_back = set_back or entry[2][2] .. (entry[2][4] or '') ~= ARGV[4]
end
for name, number in pairs(cjson.decode(ARGV[5])) do
  set_back = set_back or redis.call('HGET', KEYS[5], name) ~= number
end
if set_back and not other_life then
  return redis.error_reply('SETBACK the server lacks changes that it had acknowledged')
end

local function not_seeded()
  return redis.error_reply('NOTSEEDED the catalogue of the bundle is not stored yet')
end

local recorded = {}

-- Appends a field to the change log under the next sequence number. The name of the call, if any, is stored under "c"
-- if the call created or deleted the item, else under "u".
local function record(field, call, made)
  local sequence = redis.call('HINCRBY', meta, 'sequence', 1)
  recorded = { sequence, field .. (call or '') }
  local named = call and { made and 'c' or 'u', call } or {}
  redis.call('XADD', log, 'MAXLEN', '~', kept, string.format('%.0f-0', sequence), 'k', field, unpack(named))
end

-- The fields of items that a call has already created or deleted. A client that got no answer repeats the call, under
-- the same name and without knowing a later change; it must get the answer of the first call. Reads only the latest
-- changes, since otherwise a caller that knows of no change would cause the whole log to be read.
local function done_before(call, rows)
  local fields = {}
  for _, entry in ipairs(redis.call('XREVRANGE', log, '+', ARGV[3] .. '-0', 'COUNT', rows + 1000)) do
    if entry[2][3] == 'c' and entry[2][4] == call then
      fields[entry[2][2]] = true
    end
  end
  return fields
end

local function answer(said)
  return { said, unpack(recorded) }
end

local steps, parts = {}, {}

-- Records that an item became live (step 1) or deleted (step -1); see service/catalogue/fingerprint.py.
local function count(field, id, step)
  local domain, hash = field:sub(1, 2), redis.sha1hex(id .. field:sub(3))
  local part = parts[domain] or { 0, 0 }
  part[1] = bit.bxor(part[1], tonumber(hash:sub(1, 8), 16))
  part[2] = bit.bxor(part[2], tonumber(hash:sub(9, 16), 16))
  parts[domain], steps[domain] = part, (steps[domain] or 0) + step
end

-- Writes the recorded counts and fingerprints; called once, at the end.
local function settle()
  for domain, part in pairs(parts) do
    local known = redis.call('HGET', fingerprints, domain) or '0000000000000000'
    local high = bit.bxor(tonumber(known:sub(1, 8), 16), part[1])
    local low = bit.bxor(tonumber(known:sub(9, 16), 16), part[2])
    redis.call('HSET', fingerprints, domain, bit.tohex(high) .. bit.tohex(low))
    redis.call('HINCRBY', counts, domain, steps[domain])
  end
end

