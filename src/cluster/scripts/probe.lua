
-- Asks for the right to send the request that ends a pause: one in the cluster has it.
--
-- ARGV[3]  after this time without a response another request may be sent
-- ARGV[4]  for how long the slot of the request has been due
--
-- Returns: 1 if the request may be sent, else 0; after what time to ask again; the state.

local wait = 0
if recovers == 1 then
    wait = math.max(paused, probe + tonumber(ARGV[3])) - now
    if wait <= 0 then
        wait = 0
        -- Since the pause nothing but probes was sent, so the slots begin now, with that of this one.
        shift_to(math.max(paused, now - tonumber(ARGV[4])), now)
        paused, probe = now, now
        save()
    end
end
return { wait == 0 and 1 or 0, wait, state() }
