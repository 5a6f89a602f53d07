-- What every script on a bucket has in common.
--
-- KEYS[1] is the bucket, a MessagePack array of the numbers below; KEYS[2] is the birth of the data set; KEYS[3] is the channel that
-- announces pauses. ARGV[1] is the time between two tokens and ARGV[2] the time that a full
-- bucket holds beyond its first token: interval * (burst - 1). Times are whole microseconds: a Lua
-- number holds them exactly. Arguments and replies are lengths of time, so that the clock of the
-- server is the only one that counts.
--
-- tat       theoretical arrival time (GCRA): a token is due at tat - spare
-- interval, spare, strict: the strictest limit that a gateway used, and until when it applies
-- paused    the end of the pause, also after it has passed; then when the last probe was sent
-- epoch     when the pause began; 0 before the first. It names the pause.
-- recovers  1 from the beginning of a pause until a request has succeeded
-- probe     when the request was sent that may end the pause; 0 if none is out
-- step      the length of the next pause, if the next 429 names none
-- named     the smallest length of the next pause, if the next 429 names one
-- shift     by how much pauses have moved reserved slots, in sum

-- How long the length of a pause is remembered after its end.
local MAX_PAUSE = 60000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- In a data set that has lost its keys, buckets are empty and not full.
local stored = redis.call('MGET', KEYS[1], KEYS[2])
local born = tonumber(stored[2])
if not born then
    born = now
    redis.call('SET', KEYS[2], born)
end

-- A value that no script of this version has written counts as none.
local function read(value)
    local is_read, bucket = pcall(cmsgpack.unpack, value or '')
    return is_read and type(bucket) == 'table' and #bucket == 11 and bucket
end

local tat, interval, spare, strict, paused, epoch, recovers, probe, step, named, shift =
    unpack(read(stored[1]) or { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 })

interval, spare, strict = strictest(now, interval, spare, strict, tonumber(ARGV[1]), tonumber(ARGV[2]))
tat = math.max(tat, born + interval + spare)

-- Moves what is reserved, and the tokens that are not, to after this time.
local function shift_to(from, to)
    if to > from then
        shift = shift + to - from
        tat = math.max(tat + to - from, to + spare)
    end
end

-- Writes the bucket, which expires when a new one would be the same.
local function save()
    local bucket = cmsgpack.pack({ tat, interval, spare, strict, paused, epoch, recovers, probe, step, named, shift })
    local until_same = math.max(tat, strict, paused + MAX_PAUSE) - now
    redis.call('SET', KEYS[1], bucket, 'PX', math.floor(until_same / 1000) + 1000)
end

-- What a gateway has to know of the bucket. After a pause: 2 while a probe is out, 1 otherwise.
local function state()
    local recovering = recovers == 1 and probe > 0 and 2 or recovers
    return epoch, paused - now, recovering, shift, tat - now, interval, spare
end

local function announce()
    -- `..` would round a number to 14 digits.
    redis.call('PUBLISH', KEYS[3], string.format('%s %d %d %d %d %d %d %d', KEYS[1], state()))
end
