-- KEYS started queue | ARGV lease id…: back to where they were taken from, in their order.
local given = 0
for i = #ARGV, 2, -1 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[1]) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'queued')
    redis.call('HDEL', key, 'lease')
    redis.call('LPUSH', KEYS[2], id)
    given = given + 1
  end
end
return given
