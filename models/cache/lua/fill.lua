-- KEYS epoch entries fence | ARGV epoch noted version ttl_s field payload most_fields latest_us: what was noted at the
-- miss, and what was then read. Returns why it was refused, or 'stored'.
local time = redis.call('TIME')
local version = tonumber(ARGV[3])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'epoch' end
if time[1] * 1000000 + time[2] - tonumber(ARGV[2]) > tonumber(ARGV[8]) then return 'late' end
local fence = redis.call('GET', KEYS[3])
if fence and tonumber(fence) > version then return 'fence' end
local held = redis.call('HMGET', KEYS[2], 'epoch', 'version')
local is_new = held[1] ~= ARGV[1] or tonumber(held[2]) < version
if is_new then
  -- Only if there is something: a script that has written is refused no memory any more.
  if held[1] then redis.call('DEL', KEYS[2]) end
elseif tonumber(held[2]) > version then
  return 'fence'
elseif redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[7]) + 2 then
  return 'full'
end
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'version', ARGV[3], ARGV[5], ARGV[6])
-- From the first field on, so that none is older than this.
if is_new then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
return 'stored'
