-- Stores the verdict of a batch. An empty one renews the lease of the leader during its call.
--
-- KEYS[1]  the verdict of the batch
-- KEYS[2]  the channel that announces verdicts
-- ARGV[1]  for how many milliseconds it is kept
-- ARGV[2]  the verdict
--
-- Returns nothing.

redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
if ARGV[2] ~= '' then
    redis.call('PUBLISH', KEYS[2], KEYS[1])
end
return {}
