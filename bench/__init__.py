"""How fast it is, against yardsticks measured in the same run: ``python -m bench``.

Everything runs on servers of its own in a temporary folder, with the durability that production has, in rounds that
take every measure once, in rotated order. A ratio is computed within a round, from two measures that saw the same
machine; what is reported are medians over the rounds.

    figures.py   what a measure is, and the words for what it reports
    measures.py  the list of all measures: a new one is a class with ``name``, ``figures`` and ``take``, named there
    edge.py      over HTTP, beside a bare Flask route: rates, CPU by part, memory
    grpc_face.py over gRPC, beside REST and the bare route; watchers.py  unary calls beside open streams
    calls.py     CPU a call, without a server; caller.py makes the calls
    direct.py    v1 without HTTP
    bulk.py      ten thousand transfers in one request
    fields.py    what descriptions, references and metadata cost
    webhooks.py  drains beside dead receivers, and how fast one that is well is told; receiver.py has all of these
    drain.py, pgbench.py, steady.py, lone.py, depth.py  backlogs, their yardstick, steady rates, deep pages
    site.py      the servers, the two databases, and the service's processes
    asks.py      what is asked of the API, in which of the wallets
    windows.py   short windows of several kinds that take turns, and what each has cost whom
    flood.py, grpc_flood.py, http_client.py  the clients: as much as is answered, and a steady rate
    parts.py     processors and memory of the service's parts
    backlog.py   wallets, pending transfers and real RQ jobs; afterwards: is every cent still there?
    crew.py      worker processes, held still and let go at one instant
    report.py, chart.py, machine.py  the table, the picture, and on what it was measured
    kafka/       the same backlogs over Kafka, and what is lost with a consumer, a broker or all topics
    picture.py, terminal.py  something else: the recording in the README (``make picture``)
"""
