
-- Reserves the next slots.
--
-- ARGV[3]  how much later than now the gateway knows the tat to be; 0: not at all. After a
--          failover the server may have lost what it had granted.
-- ARGV[4]  the end of a pause that the gateway knows of, from now; 0: none
-- ARGV[5]  how many of the last slots the gateway gives back
-- ARGV[6]  the tat after the last of them was reserved, as the reply gave it: they go back
--          only if it has not moved since
-- ARGV[7]  1: take a slot only if it is due now (a batch of receipts that yields)
-- ARGV[8…] for each request that needs a slot, the time that is left until its deadline
--
-- Returns: how many slots are reserved; when the first would be due; the tat; the state.

bucket.tat = math.max(bucket.tat, now + tonumber(ARGV[3]))
local known_pause = tonumber(ARGV[4])
if known_pause > 0 and now + known_pause > bucket.paused then
    local from = math.max(bucket.paused, now)
    bucket.paused = now + known_pause
    bucket.recovers = 1
    if bucket.epoch == 0 then
        bucket.epoch = now
    end
    shift_to(from, bucket.paused)
end

local back = tonumber(ARGV[5])
if back > 0 and bucket.tat == tonumber(ARGV[6]) then
    bucket.tat = bucket.tat - back * interval
end

bucket.tat = math.max(bucket.tat, now)
local first = bucket.tat - spare - now
local reserved = 0
for index = 8, #ARGV do
    local due = math.max(0, first + reserved * interval)
    if due <= tonumber(ARGV[index]) and (ARGV[7] == '0' or due == 0) then
        reserved = reserved + 1
    end
end
bucket.tat = bucket.tat + reserved * interval
save()
return { reserved, first, bucket.tat, state() }
