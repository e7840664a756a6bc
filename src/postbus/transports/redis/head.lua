-- What every script of a topic begins with.  Keys: docs/redis.md.
local call = redis.call
-- How a bell is rung; see scripts.py.
local PUBLISH = 'PUBLISH'
-- The time in ms of a clock that a test moves by hand; see scripts.py.
local given_now = nil
