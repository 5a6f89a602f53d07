
-- Reserves the next slots.
--
-- ARGV[3]  the birth of the data set that the gateway knows; 0 on a new connection: the server may
--          have lost what it had granted
-- ARGV[4]  how much later than now the gateway knows the tat to be
-- ARGV[5]  the end of a pause that the gateway knows of, from now; 0: none
-- ARGV[6]  by how much the tat goes back for the last slots that the gateway gives back
-- ARGV[7]  the tat after the last of them was reserved, as the reply gave it: they go back
--          only if it has not moved since
-- ARGV[8]  1: take a slot only if it is due now (a batch of receipts that yields)
-- ARGV[9]  by how much a slot moves the tat, in thousandths of the interval: more than 1000 while
--          some gateways may go on without the server
-- ARGV[10…] for each request that needs a slot, the time that is left until its deadline
--
-- Returns: how many slots are reserved; when the first would be due; the tat; the birth of the
-- data set; the time between two slots; the state.

if tonumber(ARGV[3]) ~= born then
    tat = math.max(tat, now + tonumber(ARGV[4]))
    local known_pause = now + tonumber(ARGV[5])
    if known_pause > math.max(paused, now) then
        shift_to(math.max(paused, now), known_pause)
        paused, recovers = known_pause, 1
        if epoch == 0 then
            epoch = now
        end
    end
end

local back = tonumber(ARGV[6])
if back > 0 and tat == tonumber(ARGV[7]) then
    tat = tat - back
end

local between = math.floor(interval * ARGV[9] / 1000)
-- Until a pause is over no token comes back: behind the probe the rate applies, without a burst.
tat = math.max(tat, recovers == 1 and now + spare or now)
local first = tat - spare - now
local reserved = 0
for index = 10, #ARGV do
    local due = math.max(0, first + reserved * between)
    if due <= tonumber(ARGV[index]) and (ARGV[8] == '0' or due == 0) then
        reserved = reserved + 1
    end
end
tat = tat + reserved * between
save()
return { reserved, first, tat, born, between, state() }
