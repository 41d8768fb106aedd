-- KEYS scheduled queue most | ARGV now timeout result_ttl failure_ttl description most_shown memory_share job_bytes, then
-- per job: id data meta due. Shows as scheduled what nobody is to have before it is due: of what is more than may be
-- shown, the soonest. What a worker or the queue has is left alone, and where memory is short nothing is shown at all.
-- Returns how many were not shown before.
if redis.call('LLEN', KEYS[2]) > most_waiting(KEYS[3], KEYS[2], tonumber(ARGV[7]), tonumber(ARGV[8])) then return 0 end
local queue = string.match(KEYS[2], '[^:]+$')
local function has_room(due)
  if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[6]) then return true end
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  if tonumber(last[2]) <= due then return false end
  redis.call('ZREM', KEYS[1], last[1])
  if redis.call('HGET', 'rq:job:' .. last[1], 'status') == 'scheduled' then
    redis.call('DEL', 'rq:job:' .. last[1], 'rq:results:' .. last[1])
  end
  return true
end
local shown = 0
for i = 9, #ARGV, 4 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  local status, is_there = redis.call('HGET', key, 'status'), redis.call('ZSCORE', KEYS[1], id)
  if (not status or status == 'scheduled') and (is_there or has_room(tonumber(ARGV[i + 3]))) then
    if not status then
      redis.call('HSET', key, 'status', 'scheduled', 'origin', queue, 'data', ARGV[i + 1], 'description', ARGV[5],
        'created_at', ARGV[1], 'enqueued_at', '', 'timeout', ARGV[2], 'result_ttl', ARGV[3],
        'failure_ttl', ARGV[4], 'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '')
      if ARGV[i + 2] ~= '' then redis.call('HSET', key, 'meta', ARGV[i + 2]) end
    end
    redis.call('ZADD', KEYS[1], ARGV[i + 3], id)
    if not is_there then shown = shown + 1 end
  end
end
return shown
