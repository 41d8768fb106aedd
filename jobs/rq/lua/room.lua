-- How many jobs may wait, so that all that is kept takes no more than a share of the memory: fewer than do, or fewer than
-- none, when it takes more already. To look at the memory costs as much as to enqueue ten jobs, so that is done once a
-- second, for everybody. A server without a limit, or one that does not tell, has room.
local function most_waiting(key, queue, share, job_bytes)
  local known = redis.call('GET', key)
  if known then return tonumber(known) end
  local info = redis.pcall('INFO', 'memory')
  local function figure(name)
    return type(info) == 'string' and tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0
  end
  local limit, most = figure('maxmemory'), 1e9
  if limit > 0 then
    most = redis.call('LLEN', queue) + math.floor((limit * share - figure('used_memory')) / job_bytes)
  end
  redis.call('SET', key, string.format('%d', most), 'PX', 1000)
  return most
end
