-- Closes a batch, and returns the batches that follow it.
--
-- KEYS[1]  the open batch of the key
-- KEYS[2]  the verdict of the batch, which is empty until there is one
-- ARGV[1]  the lease of the leader in milliseconds
-- ARGV[2]  the id of the leader
--
-- Returns: 1 if the batch was still open under this leader, else 0; what the others have added, in
-- their order.

if redis.call('HGET', KEYS[1], 'leader') ~= ARGV[2] then
    return { 0 }
end
local count = tonumber(redis.call('HGET', KEYS[1], 'count') or 0)
local reply = { 1 }
for number = 1, count do
    reply[number + 1] = redis.call('HGET', KEYS[1], number)
end
redis.call('DEL', KEYS[1])
if count > 0 then
    redis.call('SET', KEYS[2], '', 'PX', ARGV[1])
end
return reply
