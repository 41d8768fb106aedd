-- KEYS started finished failed scheduled queue most | ARGV now result_ttl lease memory_share job_bytes id…
-- Where memory is short, what is finished is not kept to be looked at.
local is_short = redis.call('LLEN', KEYS[5]) > most_waiting(KEYS[6], KEYS[5], tonumber(ARGV[4]), tonumber(ARGV[5]))
local instant, ttl = now(), tonumber(ARGV[2])
local leases, done, ids = {}, {}, {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', instant)
for i = 6, #ARGV do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  leases[#leases + 1] = id .. ':' .. ARGV[3]
  ids[#ids + 1] = id
  local job = redis.call('HMGET', key, 'status', 'lease', 'dead')
  if job[1] then
    if job[2] and job[2] ~= ARGV[3] then leases[#leases + 1] = id .. ':' .. job[2] end
    if is_short then
      redis.call('DEL', key, 'rq:results:' .. id)
    else
      redis.call('HSET', key, 'status', 'finished', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1])
      if job[3] then redis.call('HDEL', key, 'dead') end
      if job[3] or job[1] ~= 'started' then redis.call('EXPIRE', 'rq:results:' .. id, ttl) end
      redis.call('EXPIRE', key, ttl)
      done[#done + 1] = instant + ttl
      done[#done + 1] = id
    end
  end
end
sliced('ZREM', KEYS[1], leases)
sliced('ZREM', KEYS[3], ids)
sliced('ZREM', KEYS[4], ids)
if #done > 0 then sliced('ZADD', KEYS[2], done) end
return #done / 2
