-- KEYS started queue | ARGV per job: id lost; back to the front, with so many lost leases, from under one that ran out.
local spared = 0
for i = #ARGV - 1, 1, -2 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  local job = redis.call('HMGET', key, 'status', 'lease')
  if job[1] == 'started' and redis.call('ZREM', KEYS[1], id .. ':' .. (job[2] or '')) == 1 then
    redis.call('HSET', key, 'status', 'queued', 'lost', ARGV[i + 1])
    redis.call('HDEL', key, 'lease')
    redis.call('LPUSH', KEYS[2], id)
    spared = spared + 1
  end
end
return spared
