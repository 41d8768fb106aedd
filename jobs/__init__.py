"""When and again: what settles transfers, retries them, brings them back and audits them. RQ is known in rq/ only."""
