-- Adds the ids of a batch to that of another gateway.
--
-- KEYS[1]  the open batch of the key
-- ARGV[1]  how many batches may follow one
-- ARGV[2]  the id of the leader
-- ARGV[3]  the batch that follows, and its ids
--
-- Returns: 1 if the leader will read the ids, else 0.

if redis.call('HGET', KEYS[1], 'leader') ~= ARGV[2] then
    return { 0 }
end
local number = (redis.call('HGET', KEYS[1], 'count') or 0) + 1
if number > tonumber(ARGV[1]) then
    return { 0 }
end
redis.call('HSET', KEYS[1], 'count', number, number, ARGV[3])
return { 1 }
