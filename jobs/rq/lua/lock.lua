-- KEYS lock | ARGV token ttl_ms: takes a lock if it is free. Deleting comes first, for the reason in shared.lua.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
