-- Joins the open batch of a merge key, or opens it.
--
-- KEYS[1]  the open batch of the key: a hash with its leader, when it is due, and `count` batches that
--          follow it, by their numbers
-- ARGV[1]  for how long a new batch is open
-- ARGV[2]  the lease of a leader in milliseconds; while it waits it asks again
-- ARGV[3]  the id of the caller's batch
--
-- Returns: the time until the batch is due, in microseconds; the id of its leader: ARGV[3] if that
-- has opened it.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local leader, due = unpack(redis.call('HMGET', KEYS[1], 'leader', 'due'))
if not leader then
    leader, due = ARGV[3], now + ARGV[1]
    -- Lua writes a number of this size with 14 digits only.
    redis.call('HSET', KEYS[1], 'leader', leader, 'due', string.format('%.0f', due))
end
if leader == ARGV[3] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return { due - now, leader }
