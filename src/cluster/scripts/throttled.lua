
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

local length = math.min(tonumber(ARGV[4]), MAX_PAUSE)
local was_held = recovers == 1
local from = was_held and paused or now
local forgotten = not was_held and paused + MAX_PAUSE <= now
if forgotten then
    step, named = 0, 0
end
if tonumber(ARGV[3]) == epoch then
    if length > 0 then
        length = math.max(length, named)
    else
        length = math.max(step, FIRST_PAUSE)
        step = math.min(length * 2, MAX_PAUSE)
    end
    named = math.min(length * 2, MAX_REPEATED)
    epoch = math.max(now, epoch + 1)
    paused = now + length
    recovers, probe = 1, 0
elseif length > 0 then
    paused = math.max(paused, now + length)
    recovers = 1
end
shift_to(from, paused)
save()
announce()
return { state() }
