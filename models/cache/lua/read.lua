-- KEYS epoch entries | ARGV field new_epoch: {payload}, or {false, epoch, now in microseconds} to fill it with.
-- Entries of another epoch are none: the epoch is lost with Redis's data, and replaced when Redis may have gone back
-- to older data.
local epoch = redis.call('GET', KEYS[1])
if epoch then
  local found = redis.call('HMGET', KEYS[2], 'epoch', ARGV[1])
  if found[2] and found[1] == epoch then return {found[2]} end
else
  epoch = ARGV[2]
  redis.pcall('SET', KEYS[1], epoch)  -- without memory for it nothing will be filled
end
local time = redis.call('TIME')
return {false, epoch, string.format('%d%06d', time[1], time[2])}
