-- wrk.lua CALL [JOB]: what wrk asks; when it is over, its figures as a line of JSON.
local TOWNS = 1000
local headers = {["Content-Type"] = "application/json"}
local n = 0

local function town()
   n = n + 1
   return "The mayor of town " .. n % TOWNS .. " is called"
end

local calls = {
   status = function() return wrk.format("GET", "/v1/status") end,
   job = function() return wrk.format("GET", "/v1/jobs/" .. job) end,
   edit = function()
      local body = string.format('{"facts":[{"prompt":"%s","target":"Mayor%d"}]}', town(), n)
      return wrk.format("POST", "/v1/edits", headers, body)
   end,
   completion = function()
      local body = string.format('{"prompt":"%s","max_tokens":8}', town())
      return wrk.format("POST", "/v1/completions", headers, body)
   end,
}

local mixed = {"status", "job", "completion", "job", "status", "job", "completion", "job",
               "status", "job", "status", "job", "edit", "job", "status", "job"}
local turn = 0

function calls.mix()
   turn = turn % #mixed + 1
   return calls[mixed[turn]]()
end

function init(args)
   job = args[2]
   request = calls[args[1]]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '{"requests":%d,"seconds":%.4f,"p50_ms":%.3f,"p99_ms":%.3f,"refused":%d,"broken":%d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
      latency:percentile(99) / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
