-- KEYS epoch server | ARGV run_id_and_books new_epoch: a server that is not the one of before may have gone back to
-- older data, and so may books.
-- Also one that is full: deleting is never refused for want of memory, nor is what a script writes after that.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  redis.call('DEL', KEYS[2])
  redis.call('SET', KEYS[2], ARGV[1])
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
