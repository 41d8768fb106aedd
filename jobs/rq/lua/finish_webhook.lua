-- KEYS started finished job | ARGV now ttl_s worker id: shows a job as finished for a while, if it is there.
local time = redis.call('TIME')
redis.call('ZREM', KEYS[1], ARGV[4] .. ':' .. ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time[1])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'status', 'finished', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1])
  redis.call('EXPIRE', KEYS[3], ARGV[2])
  redis.call('ZADD', KEYS[2], time[1] + ARGV[2], ARGV[4])
end
