-- KEYS queue queues scheduled failed finished started most | ARGV now timeout result_ttl failure_ttl description mode
-- most fewest reserved memory_share job_bytes, then per job: id data meta lost. Mode 'new' leaves any job that has a hash
-- alone, 'lost' those that are alive. Returns how many were put on the queue, and for how many there was no room.
local queue = string.match(KEYS[1], '[^:]+$')
local pushed = {}
local function is_alive(id, key)
  local job = redis.call('HMGET', key, 'status', 'lease')
  if job[1] == 'queued' then return redis.call('LPOS', KEYS[1], id) ~= false end
  if job[1] ~= 'started' then return false end
  if job[2] then return redis.call('ZSCORE', KEYS[6], id .. ':' .. job[2]) ~= false end
  return redis.call('EXISTS', 'rq:executions:' .. id) == 1
end
local limit = math.min(tonumber(ARGV[7]), most_waiting(KEYS[7], KEYS[1], tonumber(ARGV[10]), tonumber(ARGV[11])))
-- Whatever else it is that takes the memory, some jobs are let in, or none would be settled until it is gone.
local room = math.max(limit, tonumber(ARGV[8])) - ARGV[9] - redis.call('LLEN', KEYS[1])
local refused = 0
for i = 12, #ARGV, 4 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  local exists = redis.call('EXISTS', key) == 1
  if exists and (ARGV[6] == 'new' or is_alive(id, key)) then
    -- It is where it belongs.
  elseif #pushed >= room then
    refused = refused + 1
  else
    if exists then
      redis.call('ZREM', KEYS[3], id)
      redis.call('ZREM', KEYS[4], id)
      redis.call('ZREM', KEYS[5], id)
      redis.call('DEL', key, 'rq:results:' .. id)
    end
    redis.call('HSET', key, 'status', 'queued', 'origin', queue, 'data', ARGV[i + 1], 'description', ARGV[5],
      'created_at', ARGV[1], 'enqueued_at', ARGV[1], 'timeout', ARGV[2], 'result_ttl', ARGV[3],
      'failure_ttl', ARGV[4], 'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '')
    if ARGV[i + 2] ~= '' then redis.call('HSET', key, 'meta', ARGV[i + 2]) end
    if ARGV[i + 3] ~= '0' then redis.call('HSET', key, 'lost', ARGV[i + 3]) end
    pushed[#pushed + 1] = id
  end
end
if #pushed > 0 then
  redis.call('SADD', KEYS[2], KEYS[1])
  sliced('RPUSH', KEYS[1], pushed)
end
return {#pushed, refused}
