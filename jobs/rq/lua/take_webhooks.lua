-- KEYS queue started | ARGV limit now ttl_s worker: takes up to so many jobs off the queue, shows them as started, and
-- returns their ids. Who has them stands in PostgreSQL; what stands here goes by itself when its time is over.
redis.call('DEL', 'wallet:nothing') -- see shared.lua
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time[1])
local ids = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
for _, id in ipairs(ids) do
  local key = 'rq:job:' .. id
  if redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'started', 'started_at', ARGV[2], 'last_heartbeat', ARGV[2], 'worker_name', ARGV[4])
    redis.call('EXPIRE', key, ARGV[3])
    redis.call('ZADD', KEYS[2], time[1] + ARGV[3], id .. ':' .. ARGV[4])
  end
end
return ids
