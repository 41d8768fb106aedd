-- KEYS epoch server | ARGV run_id new_epoch: a server that is not the one of before may have gone back to older data.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1])
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
