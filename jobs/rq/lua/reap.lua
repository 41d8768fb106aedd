-- KEYS started queue | ARGV limit max_lost: leases that have run out. Those of jobs that somebody else has finished or
-- taken since are only removed; the others go back to the front. Returns moved (id, lost)… and killers.
local instant, moved, killers = now(), {}, {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', instant, 'LIMIT', 0, ARGV[1])) do
  local id, lease = string.match(member, '^(.-):(.*)$')
  local key = 'rq:job:' .. (id or member)
  local job = redis.call('HMGET', key, 'status', 'lease')
  if not id or job[1] ~= 'started' or (job[2] and job[2] ~= lease) then
    redis.call('ZREM', KEYS[1], member)
  else
    local lost = redis.call('HINCRBY', key, 'lost', 1)
    if lost >= tonumber(ARGV[2]) then
      -- It stays until PostgreSQL has it as failed; should that not come to pass, it is looked at again.
      redis.call('ZADD', KEYS[1], instant + 5, member)
      killers[#killers + 1] = id
    else
      redis.call('ZREM', KEYS[1], member)
      redis.call('HSET', key, 'status', 'queued')
      redis.call('HDEL', key, 'lease')
      redis.call('LPUSH', KEYS[2], id)
      moved[#moved + 1] = id
      moved[#moved + 1] = lost
    end
  end
end
return {moved, killers}
