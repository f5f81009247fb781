-- Put before every script that changes items: what they share.
--
-- KEYS  1 meta, 2 change log, 3 counts by domain, 4 fingerprints by domain, 5 numbers of domains; the script's own follow
-- ARGV  1 the life of the store that the caller knows, 2 changes to keep, 3 and 4 number and mark of the latest change
--       that it knows of (its field, and the name of the call that made it), 5 numbers of domains that it has used, by name, as JSON; the script's own follow
-- Answers a list: what the script has to say and, if it has recorded anything, number and mark of the last change.
--
-- Lives: a server that was emptied begins a new one. What a caller remembers of an earlier life, the numbers of domains
-- above all, is void, so nothing is changed for it. The same goes for a server that was set back to an older state, as by
-- a failover to a replica that lagged: it lacks changes, and may give their IDs and domain numbers away once more.

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

-- Puts a field into the change log under the next sequence number, with the name of the call, if it has one: under "c"
-- if it made or deleted the item, else under "u".
local function record(field, call, made)
  local sequence = redis.call('HINCRBY', meta, 'sequence', 1)
  recorded = { sequence, field .. (call or '') }
  local named = call and { made and 'c' or 'u', call } or {}
  redis.call('XADD', log, 'MAXLEN', '~', kept, string.format('%.0f-0', sequence), 'k', field, unpack(named))
end

-- The fields of items that a call has made or deleted already. A client that did not get the answer calls again, under
-- the same name and knowing of no later change, and is to be told what the call did. Among the latest changes alone, or
-- a caller that knows of none would have the whole log read.
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

-- Notes that an item became live (step 1) or deleted (step -1); see service/catalogue/fingerprint.py.
local function count(field, id, step)
  local domain, hash = field:sub(1, 2), redis.sha1hex(id .. field:sub(3))
  local part = parts[domain] or { 0, 0 }
  part[1] = bit.bxor(part[1], tonumber(hash:sub(1, 8), 16))
  part[2] = bit.bxor(part[2], tonumber(hash:sub(9, 16), 16))
  parts[domain], steps[domain] = part, (steps[domain] or 0) + step
end

-- Writes what was noted; once, at the end.
local function settle()
  for domain, part in pairs(parts) do
    local known = redis.call('HGET', fingerprints, domain) or '0000000000000000'
    local high = bit.bxor(tonumber(known:sub(1, 8), 16), part[1])
    local low = bit.bxor(tonumber(known:sub(9, 16), 16), part[2])
    redis.call('HSET', fingerprints, domain, bit.tohex(high) .. bit.tohex(low))
    redis.call('HINCRBY', counts, domain, steps[domain])
  end
end

