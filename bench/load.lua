-- What wrk sends, and what it notes of each answer. Run by bench/wrk.py, with one thread for each
-- connection: so a thread knows when the answer that it reads was asked for. (wrk's own percentiles
-- are corrected for what it calls coordinated omission, and know nothing of what was answered.)
--
-- Arguments: the file for the notes, how many requests each thread may make (0: any number), the
-- kind of request, and the numbers that it needs.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } moment;
  int clock_gettime(int clock, moment *now);
  int getpid(void);
  int kill(int process, int signal);
]]
local MONOTONIC, SIGINT = 1, 2
local moment = ffi.new("moment")

local function now()
  ffi.C.clock_gettime(MONOTONIC, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

-- Of the whole process: which threads there are, and at the end the file.

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

-- Of each thread: four lists, read by `done`.

asked_at, answered_at, outcomes, seats = {}, {}, {}, {}
notes = ""
local most, asked_first, confirms, fills, holding, seat = 0, 0, false, false, nil, 0
local ask

local function post(path, body)
  return wrk.format("POST", path, nil, body)
end

local kinds = {
  get = function(path)
    local request = wrk.format("GET", path)
    return function() return request end
  end,

  -- One seat, any, of one of the slots.
  hold = function(first, last)
    first, last = tonumber(first), tonumber(last)
    return function()
      local slot = math.random(first, last)
      return post("/api/v1/bookings", string.format('{"slot":%d,"quantity":1}', slot))
    end
  end,

  -- One of the seats of the slot, named.
  named = function(slot, first, last)
    slot, first, last = tonumber(slot), tonumber(first), tonumber(last)
    return function()
      seat = math.random(first, last)
      return post("/api/v1/bookings", string.format('{"slot":%d,"seat_ids":[%d]}', slot, seat))
    end
  end,
}

-- A hold, and when it is there its confirmation, by somebody with an address of their own.
kinds.confirm = function(first, last)
  local hold = kinds.hold(first, last)
  confirms = true
  return function()
    if not holding then return hold() end
    local email = string.format("visitor-%d@example.org", math.random(1, 2 ^ 50))
    local body = string.format('{"name":"Ada Lovelace","email":"%s"}', email)
    return post("/api/v1/bookings/" .. holding .. "/confirm", body)
  end
end

-- Holds of one slot, until it is sold out.
kinds.fill = function(slot)
  fills = true
  return kinds.hold(slot, slot)
end

function init(arguments)
  notes, most = arguments[1], tonumber(arguments[2])
  local seconds = now()
  math.randomseed((seconds * 1e6 + number * 7919) % 2 ^ 31)
  wrk.headers["Content-Type"] = "application/json"
  ask = kinds[arguments[3]](arguments[4], arguments[5], arguments[6])
end

function request()
  local wanted = ask()
  if not holding then asked_first = now() end
  return wanted
end

local function outcome_of(status, body)
  if status < 400 then return tostring(status) end
  return status .. " " .. (body:match('"code": ?"([a-z_]+)"') or "none")
end

function response(status, headers, body)
  if confirms and status == 201 and not holding then
    holding = body:match('"id": ?"([0-9a-f-]+)"')
    return
  end
  holding = nil
  local n = #outcomes + 1
  asked_at[n], answered_at[n], seats[n] = asked_first, now(), seat
  outcomes[n] = outcome_of(status, body)
  if n == most or (fills and status >= 400) then ffi.C.kill(ffi.C.getpid(), SIGINT) end
end

function done(summary, latency, requests)
  local file = assert(io.open(threads[1]:get("notes"), "w"))
  for _, thread in ipairs(threads) do
    local from, to = thread:get("asked_at"), thread:get("answered_at")
    local what, which = thread:get("outcomes"), thread:get("seats")
    for n = 1, #what do
      file:write(string.format("%.6f %.6f %d %s\n", from[n], to[n], which[n], what[n]))
    end
  end
  for _, kind in ipairs({ "connect", "read", "write", "timeout" }) do
    for _ = 1, summary.errors[kind] do file:write("0 0 0 ", kind, "\n") end
  end
  file:close()
end
