-- KEYS started, perhaps queue | ARGV id…: those that no worker holds and no list is thought to have; and those said to be
-- queued. With the queue's key the list is asked about each of them, which is a walk.
local gone, queued = {}, {}
for _, id in ipairs(ARGV) do
  local job = redis.call('HMGET', 'rq:job:' .. id, 'status', 'lease')
  if job[1] == 'queued' then
    local of_list = not KEYS[2] or redis.call('LPOS', KEYS[2], id)
    local found = of_list and queued or gone
    found[#found + 1] = id
  elseif job[1] ~= 'started' then
    gone[#gone + 1] = id
  elseif job[2] then
    if not redis.call('ZSCORE', KEYS[1], id .. ':' .. job[2]) then gone[#gone + 1] = id end
  elseif redis.call('EXISTS', 'rq:executions:' .. id) == 0 then
    gone[#gone + 1] = id
  end
end
return {gone, queued}
