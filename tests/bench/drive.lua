-- One script for wrk and every workload: wrk -s drive.lua URL -- WORKLOAD FILE
-- FILE holds a token a line (an e-mail address for logins), taken in turns. Each request comes from another
-- address, as the limits by address see it, and about every fiftieth closes its connection: kept for ever,
-- 16 connections may all stick to one worker.

local what, lines, first, last = "", {}, 1, 0

function init(args)
    what = args[1]
    for line in io.lines(args[2]) do
        last = last + 1
        lines[last] = line
    end
    math.randomseed(os.time())
    if what ~= "refresh" then
        response = nil  -- reading answers costs, and only a refresh needs them
    end
end

local function turn()
    local line = lines[first]
    first = first % last + 1
    return line
end

-- A refresh token is used once: it leaves the queue, and its successor joins at the end.
local function take()
    local line = lines[first]
    lines[first] = nil
    first = first + 1
    return line
end

local function headers()
    local address = string.format("10.%d.%d.%d", math.random(0, 255), math.random(0, 255), math.random(1, 254))
    local sent = {
        ["Host"] = "127.0.0.1",  -- of PUBLIC_BASE_URL, as a proxy passes it on; wrk would name the port
        ["X-Forwarded-For"] = address,
        ["X-Forwarded-Proto"] = "https",
        ["User-Agent"] = "curl/8.9.1",
        ["Content-Type"] = "application/json",
    }
    if math.random(50) == 1 then
        sent["Connection"] = "close"
    end
    return sent
end

local function read(path)
    local sent = headers()
    sent["Authorization"] = "Bearer " .. turn()
    return wrk.format("GET", path, sent)
end

local work = {
    me = function() return read("/api/v1/auth/me") end,
    list = function() return read("/api/v1/sessions/me") end,
    forward = function()
        local sent = headers()
        sent["Authorization"] = "Bearer " .. turn()
        sent["X-Forwarded-Host"] = "wiki.example.com"
        return wrk.format("GET", "/forward-auth", sent)
    end,
    introspect = function()
        local sent = headers()
        sent["Authorization"] = "Basic YmVuY2g6c2VjcmV0IG9mIHRoZSBiZW5jaG1hcms="  -- bench:secret of the benchmark
        sent["Content-Type"] = "application/x-www-form-urlencoded"
        return wrk.format("POST", "/api/v1/auth/introspect", sent, "token=" .. turn())
    end,
    page = function() return wrk.format("GET", "/login", headers()) end,
    login = function()
        local email, sent = turn(), headers()
        sent["X-Device-Id"] = "app of " .. email  -- a device seen before: no mail is part of the work
        local body = '{"email":"' .. email .. '","password":"three random words"}'
        return wrk.format("POST", "/api/v1/auth/login", sent, body)
    end,
    refresh = function()
        return wrk.format("POST", "/api/v1/auth/refresh", headers(), '{"refresh_token":"' .. take() .. '"}')
    end,
}

function request()
    return work[what]()
end

function response(status, _, body)
    local token = status == 200 and string.match(body, '"refresh_token":"([^"]+)"')
    if token then
        last = last + 1
        lines[last] = token
    end
end

function done(summary, latency, _)
    local lost = summary.errors
    io.write(string.format(
        '\nRESULT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, lost.status, lost.connect + lost.read + lost.write + lost.timeout))
end
