-- KEYS bucket | ARGV interval_us burst: a bucket of `burst` tokens that gains one each interval, kept as the instant at
-- which it will be full again. Takes a token: {1 or 0, tokens left, us until there is one, us until it is full}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
-- A bucket that was kept under another limit cannot be emptier than empty.
full_at = math.min(full_at, now + burst * interval)
local room = burst * interval - (full_at - now)
if ARGV[3] == 'look' or room < interval then
  local wait = math.max(interval - room, 0)
  return {room >= interval and 1 or 0, math.floor(room / interval), math.ceil(wait), math.ceil(full_at - now)}
end
full_at = full_at + interval
redis.call('SET', KEYS[1], string.format('%.3f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
return {1, math.floor((room - interval) / interval), 0, math.ceil(full_at - now)}
