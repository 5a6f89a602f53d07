-- Reports a gateway, and returns all.
--
-- KEYS[1]  the gateways, a hash by their ids
-- KEYS[2]  the key with which gateways hash what they write; one of the two keys that never expire
-- KEYS[3]  the birth of the data set, the other one
-- ARGV[1]  the id of the gateway, ARGV[2] its version, ARGV[3] a hash of its settings: without spaces
-- ARGV[4]  the key, if there is none
-- ARGV[5]  1: the gateway ends
-- ARGV[6]  1: it uses the server, 0: it goes on without it
--
-- Returns: the key; the birth; then for each gateway its id, version, settings, whether it uses the
-- server, and how long ago it has reported itself, in microseconds.

-- Lua writes a number of this size with 14 digits only.
local function entry(time, version, settings, shares)
    return table.concat({ string.format('%.0f', time), version, settings, shares }, ' ')
end

-- Gateways that vanished are returned for this time, so that the others know of them.
local REMEMBERED = 36000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

redis.call('SET', KEYS[2], ARGV[4], 'NX')
redis.call('SET', KEYS[3], string.format('%.0f', now), 'NX')
if ARGV[5] == '1' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], entry(now, ARGV[2], ARGV[3], ARGV[6]))
    redis.call('PEXPIRE', KEYS[1], REMEMBERED / 1000)
end

local reply = { redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3]) }
local entries = redis.call('HGETALL', KEYS[1])
for index = 1, #entries, 2 do
    local seen, version, settings, shares = string.match(entries[index + 1], '^(%d+) (%S+) (%S+) (%d)$')
    local ago = seen and now - seen or REMEMBERED + 1
    if ago < 0 then
        -- The clock of the server was set back. Otherwise a gateway that has vanished would stay live
        -- until the clock is there again.
        redis.call('HSET', KEYS[1], entries[index], entry(now, version, settings, shares))
        ago = 0
    end
    if ago > REMEMBERED then
        redis.call('HDEL', KEYS[1], entries[index])
    else
        for _, value in ipairs({ entries[index], version, settings, tonumber(shares), ago }) do
            reply[#reply + 1] = value
        end
    end
end
return reply
