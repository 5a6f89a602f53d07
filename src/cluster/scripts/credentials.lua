-- Returns the credentials that the API accepts for an instance, after the change of one of them.
--
-- KEYS[1]  the credentials, a sorted set by the time of the last report; KEYS[2] is the channel that
--          announces changes
-- ARGV[1]  1: the API accepts a credential; 0: it does not any more. Without it nothing changes
-- ARGV[2]  the credential, encrypted; the same text from every gateway
--
-- Returns: the credentials.

-- How long a credential is kept after its last report, in microseconds.
local KEPT = 3600000000
-- While so many are kept there is no room for another: a credential in use is not evicted.
local MOST = 16

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - KEPT)

local function announce()
    redis.call('PUBLISH', KEYS[2], table.concat({ KEYS[1], ARGV[1], ARGV[2] }, ' '))
end

if ARGV[1] == '1' then
    local is_known = redis.call('ZSCORE', KEYS[1], ARGV[2])
    if is_known or redis.call('ZCARD', KEYS[1]) < MOST then
        redis.call('ZADD', KEYS[1], now, ARGV[2])
        redis.call('PEXPIRE', KEYS[1], KEPT / 1000)
        if not is_known then
            announce()
        end
    end
elseif ARGV[1] == '0' and redis.call('ZREM', KEYS[1], ARGV[2]) == 1 then
    announce()
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
