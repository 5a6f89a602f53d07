
-- Records an upstream 429.
--
-- ARGV[3]  the epoch in which its request was sent
-- ARGV[4]  the pause that the response names; 0: none
--
-- Only a 429 to a request that was sent after the last pause had ended begins another; one that
-- was in flight before can only move the end of the pause.
--
-- Returns: the state.

local FIRST_PAUSE = 1000000
local MAX_REPEATED = 1000000

local named = math.min(tonumber(ARGV[4]), MAX_PAUSE)
local was_held = bucket.recovers == 1
local from = was_held and bucket.paused or now
local forgotten = not was_held and bucket.paused + MAX_PAUSE <= now
if forgotten then
    bucket.step, bucket.named = 0, 0
end
if tonumber(ARGV[3]) == bucket.epoch then
    local length = named
    if named > 0 then
        length = math.max(named, bucket.named)
    else
        length = math.max(bucket.step, FIRST_PAUSE)
        bucket.step = math.min(length * 2, MAX_PAUSE)
    end
    bucket.named = math.min(length * 2, MAX_REPEATED)
    bucket.epoch = math.max(now, bucket.epoch + 1)
    bucket.paused = now + length
    bucket.recovers, bucket.probe = 1, 0
elseif named > 0 then
    bucket.paused = math.max(bucket.paused, now + named)
    bucket.recovers = 1
end
shift_to(from, bucket.paused)
save()
announce()
return { state() }
