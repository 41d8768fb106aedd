-- KEYS started scheduled | ARGV now lease, then per job: id due
local postponed = 0
for i = 3, #ARGV, 2 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[2]) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'scheduled', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1])
    redis.call('HDEL', key, 'lease')
    redis.call('ZADD', KEYS[2], ARGV[i + 1], id)
    postponed = postponed + 1
  end
end
return postponed
