-- The limit that applies while gateways have different ones, for scripts on budgets.

-- How long the strictest limit applies after a gateway has last used it.
local STRICT_FOR = 10000000

-- Returns interval, spare and until when they are the strictest, after a gateway has used a limit.
local function strictest(now, interval, spare, strict, own_interval, own_spare)
    if strict <= now or (interval <= own_interval and spare >= own_spare) then
        return own_interval, own_spare, now + STRICT_FOR
    end
    if own_interval == interval or own_spare == spare then
        strict = now + STRICT_FOR
    end
    return math.max(interval, own_interval), math.min(spare, own_spare), strict
end

