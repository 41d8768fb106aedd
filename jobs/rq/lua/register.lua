-- KEYS worker executions workers… | ARGV ttl_s, then the worker's fields: shows that it lives, also to a Redis that has
-- forgotten it, or has no memory.
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call('SADD', KEYS[i], KEYS[1]) end
