-- KEYS epoch | ARGV fence_s entries_prefix fence_prefix, then wallet and version of each. What is cached goes first:
-- deleting is never refused for want of memory, and a script that has written is refused none any more, so the fence
-- stands, too. Returns the epoch, by which whoever asks after his commit finds out whether all of this is still there.
for i = 4, #ARGV, 2 do redis.call('DEL', ARGV[2] .. ARGV[i]) end
for i = 4, #ARGV, 2 do
  local key = ARGV[3] .. ARGV[i]
  local fence = redis.call('GET', key)
  if not fence or tonumber(fence) < tonumber(ARGV[i + 1]) then fence = ARGV[i + 1] end
  redis.call('SET', key, fence, 'EX', ARGV[1])
end
return redis.call('GET', KEYS[1])
