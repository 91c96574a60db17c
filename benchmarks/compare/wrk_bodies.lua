-- Cycles through request bodies; prints one line of JSON at the end. Arguments after `--`: a file of bodies, each after
-- its length in eight digits, then headers as "Name: value".
local requests = {}
local position = 0

function init(arguments)
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    for number = 2, #arguments do
        local name, value = arguments[number]:match("^(.-): (.*)$")
        wrk.headers[name] = value
    end
    local file = io.open(arguments[1], "rb")
    while true do
        local length = file:read(8)
        if not length then break end
        requests[#requests + 1] = wrk.format(nil, nil, nil, file:read(tonumber(length)))
    end
    file:close()
end

function request()
    position = position % #requests + 1
    return requests[position]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "duration_us": %d, "errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}, ' ..
        '"p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
