
-- Records a response other than 429, or none, to a request of a bucket that recovers.
--
-- ARGV[3]  the epoch in which the request was sent
-- ARGV[4]  1 if its status was neither 429 nor 5xx: the pause is over
--
-- Returns: the state.

if recovers == 1 and tonumber(ARGV[3]) == epoch and now >= paused then
    probe = 0
    if ARGV[4] == '1' then
        recovers, step, named = 0, 0, 0
        -- The probe has had the slot at the end of the pause. The next follow from now on.
        shift_to(paused + interval, now)
    end
    save()
    announce()
end
return { state() }
