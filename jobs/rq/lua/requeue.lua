-- KEYS failed queue queues | ARGV now id…: failed jobs go back to the end of their queue. What is not failed is left
-- alone; what has no hash is only taken out of the registry.
local requeued = {}
for i = 2, #ARGV do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', KEYS[1], id) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'queued', 'enqueued_at', ARGV[1], 'started_at', '', 'ended_at', '')
    redis.call('HDEL', key, 'exc_info')
    redis.call('PERSIST', key)
    requeued[#requeued + 1] = id
  end
end
if #requeued > 0 then
  redis.call('SADD', KEYS[3], KEYS[2])
  sliced('RPUSH', KEYS[2], requeued)
end
return #requeued
