-- A full Redis refuses none of this. It refuses the first writing of a script, if that wants memory, and deleting never:
-- so the first one deletes. Else nothing could be settled any more, and it is by settling that the queue gives room
-- back. What is let in is bounded by enqueue.lua.
redis.call('DEL', 'wallet:nothing')
-- Everything that waits or lives in a list of ids is walked in slices: unpack() takes no more.
local function sliced(command, key, values)
  for first = 1, #values, 4000 do
    redis.call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
