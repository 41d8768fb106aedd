-- KEYS queue started worker turn | ARGV limit now lease_s worker lease alone_after turn_ms standby_ms
-- Without turn_ms: takes what there is, whoever's turn it is.
local limit, ids, dead, members = tonumber(ARGV[1]), {}, {}, {}
local turn_ms = tonumber(ARGV[7])
if turn_ms and redis.call('LLEN', KEYS[1]) < limit then
  local left = redis.call('PTTL', KEYS[4])
  if left > 0 then
    if redis.call('GET', KEYS[4]) ~= ARGV[4] then left = left + ARGV[8] end
    return {ids, dead, left}
  end
end
local expires = now() + ARGV[3]
local function put_back(popped, first)
  for i = #popped, first, -1 do redis.call('LPUSH', KEYS[1], popped[i]) end
end
local full = false
while #ids < limit and not full do
  local popped = redis.call('LPOP', KEYS[1], limit - #ids)
  if not popped then break end
  for i, id in ipairs(popped) do
    local key = 'rq:job:' .. id
    local job = redis.call('HMGET', key, 'status', 'dead', 'lost')
    if job[1] == 'queued' then
      local alone = tonumber(job[3] or 0) >= tonumber(ARGV[6])
      if alone and #ids > 0 then
        put_back(popped, i)
        full = true
        break
      end
      redis.call('HSET', key, 'status', 'started', 'started_at', ARGV[2], 'last_heartbeat', ARGV[2],
        'worker_name', ARGV[4], 'lease', ARGV[5])
      ids[#ids + 1] = id
      if job[2] then dead[#dead + 1] = id; dead[#dead + 1] = job[2] end
      members[#members + 1] = expires
      members[#members + 1] = id .. ':' .. ARGV[5]
      if alone then
        put_back(popped, i + 1)
        full = true
        break
      end
    end
  end
end
if #ids > 0 then
  sliced('ZADD', KEYS[2], members)
  redis.call('HSET', KEYS[3], 'state', 'busy', 'current_job', ids[1])
end
if turn_ms and #ids > 1 and #ids < limit then redis.call('SET', KEYS[4], ARGV[4], 'PX', turn_ms) end
return {ids, dead, 0}
