from redis.asyncio import Redis

from postbus import Bus
from postbus.transports.redis import using

client = Redis(host="redis.internal", username="shop", password="secret")  # or a redis.Redis

bus = Bus(using(client))
print(bus)

# Output:
# Bus('redis://redis.internal:6379/0')
