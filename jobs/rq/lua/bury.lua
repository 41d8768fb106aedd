-- KEYS started failed queue scheduled finished | ARGV now lease generation id, the hash's fields if there is none
-- (data meta description timeout result_ttl failure_ttl), and the result's fields. Without a lease: whatever holds it.
local id, key = ARGV[4], 'rq:job:' .. ARGV[4]
local held = redis.call('HGET', key, 'lease')
if ARGV[2] ~= '' then
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[2]) == 0 then return 0 end
elseif held then
  redis.call('ZREM', KEYS[1], id .. ':' .. held)
end
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'origin', string.match(KEYS[3], '[^:]+$'), 'data', ARGV[5], 'description', ARGV[7],
    'timeout', ARGV[8], 'result_ttl', ARGV[9], 'failure_ttl', ARGV[10], 'created_at', ARGV[1],
    'enqueued_at', ARGV[1], 'started_at', '', 'worker_name', '')
  if ARGV[6] ~= '' then redis.call('HSET', key, 'meta', ARGV[6]) end
end
redis.call('HSET', key, 'status', 'failed', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1], 'dead', ARGV[3])
redis.call('HDEL', key, 'lease', 'lost')
redis.call('PERSIST', key)
redis.call('LREM', KEYS[3], 0, id)
redis.call('ZREM', KEYS[4], id)
redis.call('ZREM', KEYS[5], id)
redis.call('ZADD', KEYS[2], '+inf', id)
redis.call('XADD', 'rq:results:' .. id, 'MAXLEN', '~', 10, '*', unpack(ARGV, 11))
return 1
