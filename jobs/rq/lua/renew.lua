-- KEYS started | ARGV lease_s lease id…
local expires, held = now() + ARGV[1], 0
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i] .. ':' .. ARGV[2]) then
    redis.call('ZADD', KEYS[1], expires, ARGV[i] .. ':' .. ARGV[2])
    held = held + 1
  end
end
return held
