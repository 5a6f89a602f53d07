-- Lends tokens of the egress, and of the rates of tenants, for the next tenth of a second.
--
-- The tokens of a budget are slots, due one after the other (GCRA), and only those are lent that
-- are due soon. While there are too few, tenants get them by start-time fair queueing: each call of
-- a tenant has a start tag, a step after that of the call before, the step is shorter where the
-- weight is larger, and the smallest tags go first. A tenant has one tag for all gateways, and among
-- gateways its slots are divided by what waits there. What a tenant is owed is in its tag, so no
-- fraction of a slot is lost.
--
-- KEYS[1]  the egress: a hash of `budget`, and of what each gateway waits for, by its number
-- KEYS[2]  the birth of the data set
-- KEYS[3…] the tenants that wait on the gateway; the key holds the tenant's own rate, if it has one
-- ARGV[1]  the number of the gateway
-- ARGV[2]  the birth of the data set that the gateway knows; 0 on a new connection: the server may
--          have lost what it had lent
-- ARGV[3]  by how much a slot moves a tat, in thousandths of the interval: more than 1000 while
--          some gateways may go on without the server
-- ARGV[4]  how much later than now the gateway knows the tat of the egress to be
-- ARGV[5]  the time between two tokens of the egress; 0: it is unlimited
-- ARGV[6]  the time that a full bucket of the egress holds beyond its first token
-- ARGV[7…] for each tenant: its weight; how many of its requests wait, and for how long the first
--          has waited; for its own rate the same as ARGV[4], ARGV[5] and ARGV[6]
--
-- Returns: the birth of the data set; of the egress the tat, the time between two slots, and the
-- spare; the weights of the tenants that still wait for it, in sum. Then for each tenant how many
-- slots are lent, how many of its requests wait on other gateways, and of its own rate the same as
-- of the egress. What is lent of a budget are the last slots before its tat, for one tenant after
-- the other.

-- Slots are lent that are due within this time.
local HORIZON = 100000
-- What a gateway waits for counts for this time.
local FRESH = 300000
-- Its tags count for this time.
local KEPT = 10000000
-- The step of a tenant of weight 1.
local STEP = 1000000
-- A tag that is further ahead than this is of an earlier count.
local FARTHEST = 2 ^ 44
-- When tags are larger than this, the count begins anew: a Lua number is exact up to 2 ^ 53.
local LAST_TAG = 2 ^ 50
-- So many tenants without requests are kept for a gateway, beside as many as have some.
local MOST_KEPT = 16

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local born = tonumber(redis.call('GET', KEYS[2]))
if not born then
    born = now
    redis.call('SET', KEYS[2], born)
end

-- What was stored: numbers in groups, after some others. A value that no script of this version has
-- written counts as none.
local function read(value, group, others)
    local is_read, values = pcall(cmsgpack.unpack, value or '')
    local is_known = is_read and type(values) == 'table' and #values % group == others
    return is_known and type(values[1]) == 'number' and values
end

-- A budget as it is now.
local function budget(stored, known_tat, own_interval, own_spare)
    local tat, interval, spare, strict = unpack(stored or { 0, 0, 0, 0 })
    interval, spare, strict = strictest(now, interval, spare, strict, tonumber(own_interval), tonumber(own_spare))
    tat = math.max(tat, now, born + interval + spare)
    if tonumber(ARGV[2]) ~= born then
        tat = math.max(tat, now + known_tat)
    end
    local between = math.floor(interval * ARGV[3] / 1000)
    return { tat = tat, interval = interval, spare = spare, strict = strict, between = between }
end

-- How many slots of a budget can be lent.
local function slots(of)
    return math.max(0, math.floor((now + HORIZON - (of.tat - of.spare)) / of.between) + 1)
end

-- In milliseconds, for how long it is kept: then a new one would be the same.
local function kept_for(of, least)
    return math.floor(math.max(of.tat - now, of.strict - now, least) / 1000) + 1000
end

-- The tenants by their keys: the largest tag that is known, the weight, what waits on other
-- gateways, and how many requests wait for nothing but the egress.
local tenants = {}
local function tenant(key)
    local known = tenants[key]
    if not known then
        known = { tag = 0, weight = 1, others = {}, ready = 0 }
        tenants[key] = known
    end
    return known
end

-- What is stored. `mine`: the tenants that this gateway had before.
local stored, virtual_time, mine = nil, 0, {}
local fields = redis.call('HGETALL', KEYS[1])
for field = 1, #fields, 2 do
    if fields[field] == 'budget' then
        stored = read(fields[field + 1], 5, 0)
        virtual_time = stored and stored[5] <= LAST_TAG and stored[5] or 0
    end
end
for field = 1, #fields, 2 do
    local gateway = tonumber(fields[field])
    local values = gateway and read(fields[field + 1], 6, 1)
    local ago = values and now - values[1]
    if gateway and not (ago and ago >= 0 and ago <= KEPT) then
        redis.call('HDEL', KEYS[1], fields[field])
    elseif gateway then
        for index = 2, #values, 6 do
            local key, weight, tag, waiting, ready, since = unpack(values, index, index + 5)
            local known = tenant(key)
            known.weight = math.max(known.weight, weight)
            if tag <= virtual_time + FARTHEST then
                known.tag = math.max(known.tag, tag)
            end
            if fields[field] == ARGV[1] then
                mine[#mine + 1] = key
            elseif ago <= FRESH then
                local other = { gateway = gateway, waiting = waiting, ready = ready, since = since }
                known.others[#known.others + 1] = other
                known.ready = known.ready + ready
            end
        end
    end
end

-- The part of this gateway in so many slots of a tenant, by what waits on each. A fraction makes a
-- whole slot, for the gateways whose first request has waited longest.
local function part(count, own, what)
    local total = own[what]
    for _, other in ipairs(own.tenant.others) do
        total = total + other[what]
    end
    if count >= total then
        return own[what]
    end
    local left = count
    for _, other in ipairs(own.tenant.others) do
        local is_same = other.since == own.since
        if other.since < own.since or (is_same and other.gateway < tonumber(ARGV[1])) then
            left = left - math.min(other[what], math.ceil(count * other[what] / total))
        end
    end
    return math.max(0, math.min(left, math.ceil(count * own[what] / total)))
end

-- The tenants that wait here. `ready`: how many requests of each wait for nothing but the egress.
local wanted, is_wanted = {}, {}
for index = 7, #ARGV, 6 do
    local weight, waiting, waited, known_tat, interval, spare = unpack(ARGV, index, index + 5)
    local key = KEYS[(index - 7) / 6 + 3]
    local own = { key = key, tenant = tenant(key), waiting = tonumber(waiting), since = now - waited }
    own.tenant.weight = tonumber(weight)
    own.ready = own.waiting
    if interval ~= '0' then
        own.rate = budget(read(redis.call('GET', key), 4, 0), known_tat, interval, spare)
        own.ready = part(slots(own.rate), own, 'waiting')
    end
    own.tenant.ready = own.tenant.ready + own.ready
    wanted[#wanted + 1] = own
    is_wanted[key] = true
end

local is_limited = ARGV[5] ~= '0'
local egress, left = nil, math.huge
if is_limited then
    egress = budget(stored, ARGV[4], ARGV[5], ARGV[6])
    left = slots(egress)
end

-- The start tag of the next call of each. A tenant that was quiet has saved one call, no more.
local starts, steps, counts, total = {}, {}, {}, 0
local low, shortest, last_tag = math.huge, STEP, 0
for _, known in pairs(tenants) do
    local step = math.max(1, math.floor(STEP / known.weight))
    local start = math.max(known.tag, virtual_time - step)
    known.step, known.start = step, start
    if known.ready > 0 then
        local index, count = #starts + 1, math.min(known.ready, left)
        starts[index], steps[index], counts[index] = start, step, count
        total = total + known.ready
        low = math.min(low, start)
        shortest = math.min(shortest, step)
        last_tag = math.max(last_tag, start + count * step)
    end
end

-- How many calls of a tenant have a start tag before this one.
local ceil = math.ceil
local function calls_before(tag, start, step, most)
    if tag <= start then
        return 0
    end
    local calls = ceil((tag - start) / step)
    return calls < most and calls or most
end

-- Where there are too few slots, a tag before which there are as many calls: the smallest, to within
-- a part of the shortest step. The number of rounds is bounded whatever was stored.
local is_scarce = total > left
if left == 0 then
    last_tag = 0
end
for _ = 1, 64 do
    if not is_scarce or last_tag - low <= math.max(1, shortest / 8) then
        break
    end
    local middle = math.floor((low + last_tag) / 2)
    local calls = 0
    for index = 1, #starts do
        calls = calls + calls_before(middle, starts[index], steps[index], counts[index])
    end
    if calls >= left then
        last_tag = middle
    else
        low = middle
    end
end

for _, own in ipairs(wanted) do
    local known = own.tenant
    local calls = known.ready
    if is_scarce then
        calls = calls_before(last_tag, known.start, known.step, known.ready)
    end
    own.lent = math.min(left, part(calls, own, 'ready'))
    left = left - own.lent
    known.ready = known.ready - own.ready
    own.waiting = own.waiting - own.lent
    own.ready = own.waiting
    if own.rate then
        local rate = own.rate
        rate.tat = rate.tat + own.lent * rate.between
        own.ready = math.min(own.ready, slots(rate))
        local values = cmsgpack.pack({ rate.tat, rate.interval, rate.spare, rate.strict })
        redis.call('SET', own.key, values, 'PX', kept_for(rate, 0))
    end
    known.ready = known.ready + own.ready
    if is_limited and own.lent > 0 then
        egress.tat = egress.tat + own.lent * egress.between
        known.tag = known.start + own.lent * known.step
    end
end

-- The virtual time is the smallest tag of what waits, or the largest of all once nothing waits.
local weights, smallest, largest = 0, math.huge, virtual_time
for _, known in pairs(tenants) do
    largest = math.max(largest, known.tag)
    if known.ready > 0 then
        weights = weights + known.weight
        smallest = math.min(smallest, known.tag)
    end
end
virtual_time = weights > 0 and math.max(virtual_time, smallest) or largest

local record = { now }
local function keep(key, known, waiting, ready, since)
    local last = #record
    record[last + 1], record[last + 2], record[last + 3] = key, known.weight, known.tag
    record[last + 4], record[last + 5], record[last + 6] = waiting, ready, since
end
for _, own in ipairs(wanted) do
    keep(own.key, own.tenant, own.waiting, own.ready, own.since)
end
local kept = 0
for _, key in ipairs(mine) do
    local known = tenants[key]
    -- Its tag says more than that of a tenant that was quiet.
    local says_more = known.tag > math.max(0, virtual_time - known.step)
    if says_more and not is_wanted[key] and kept < #wanted + MOST_KEPT then
        kept = kept + 1
        keep(key, known, 0, 0, 0)
    end
end
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(record))
if is_limited then
    local values = { egress.tat, egress.interval, egress.spare, egress.strict, virtual_time }
    redis.call('HSET', KEYS[1], 'budget', cmsgpack.pack(values))
end
redis.call('PEXPIRE', KEYS[1], kept_for(egress or { tat = now, strict = now }, KEPT))

local reply = { born }
local function state(of)
    for _, value in ipairs(of and { of.tat - now, of.between, of.spare } or { 0, 0, 0 }) do
        reply[#reply + 1] = value
    end
end
state(egress)
reply[#reply + 1] = weights
for _, own in ipairs(wanted) do
    local elsewhere = 0
    for _, other in ipairs(own.tenant.others) do
        elsewhere = elsewhere + other.waiting
    end
    reply[#reply + 1] = own.lent
    reply[#reply + 1] = elsewhere
    state(own.rate)
end
return reply
