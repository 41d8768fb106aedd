-- KEYS bucket | ARGV interval_us burst: a bucket of `burst` tokens that gains one each interval, kept as the instant at
-- which it will be full again. Takes a token: {1 or 0, tokens left, us until there is one more, us until it is full}.
-- Nothing: there is no memory to keep it in, or it may not be written.
-- All are whole numbers, which a double holds exactly: fractions would add up, and the last token of a burst be lost.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept, most = tonumber(redis.call('GET', KEYS[1]) or 0), now + burst * interval
-- A bucket that was kept under another limit, or by a clock that was ahead, cannot be emptier than empty.
local full_at = math.min(math.max(kept, now), most)
local room = most - full_at
local allowed = room >= interval
local takes = allowed and ARGV[3] ~= 'look'
if takes then
  full_at, room = full_at + interval, room - interval
end
-- One that was too empty is written down as empty, or it would be that for as long as it was too empty.
if takes or kept > most then
  -- Once it is full it is like one that never was, so it need not be kept.
  local kept_ms = math.ceil((full_at - now) / 1000) + 1
  local said = redis.pcall('SET', KEYS[1], string.format('%.0f', full_at), 'PX', kept_ms)
  if said.err then return {} end
end
local wait = full_at > now and interval - room % interval or 0
return {allowed and 1 or 0, math.floor(room / interval), wait, full_at - now}
