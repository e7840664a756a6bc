from postbus import Bus
from postbus.integrations.django import database_url, tidy_connections

# In the same database as the models; `transactional=True` runs in transaction.atomic() on it.
bus = Bus(database_url("default"), transactions="default", middleware=[tidy_connections])
