-- The registry of a namespace, all of one moment.  KEYS: registry, subscriptions, names.
return {
  redis.call('HMGET', KEYS[1], 'epoch', 'revision', 'number', 'format'),
  redis.call('HGETALL', KEYS[2]),
  redis.call('SMEMBERS', KEYS[3]),
}
