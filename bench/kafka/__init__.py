"""The service over Kafka: how fast a backlog is worked off, how long a lone transfer takes, and what faults cost.

brokers.py   one broker, or three, and what is in their topics
drain.py     backlogs of real records, beside RQ and pgbench; with events and without
steady.py    from accepted to posted on an idle service
faults.py    a consumer, a broker or all topics lost: until everything is posted again
"""
