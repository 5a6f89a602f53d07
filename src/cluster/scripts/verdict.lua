-- Asks for the verdict of a batch.
--
-- KEYS[1]  the open batch of the key
-- KEYS[2]  the verdict of the batch
-- ARGV[1]  the id of the leader
--
-- Returns: 2 and the verdict; 1 if there may be one later; 0 if the leader has ended.

local verdict = redis.call('GET', KEYS[2])
if verdict and verdict ~= '' then
    return { 2, verdict }
end
if verdict or redis.call('HGET', KEYS[1], 'leader') == ARGV[1] then
    return { 1 }
end
return { 0 }
