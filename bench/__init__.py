"""How fast it is, against yardsticks measured in the same run: ``python -m bench``.

Everything runs on servers of its own in a temporary folder, with the durability that production has, in rounds that
take every measure once, in rotated order. A ratio is computed within a round, from two measures that saw the same
machine; what is reported are medians over the rounds.

    figures.py   what a measure is, and the words for what it reports
    measures.py  the list of all measures: a new one is a class with ``name``, ``figures`` and ``take``, named there
    site.py      the servers, the two databases, and the service's processes
    backlog.py   wallets, pending transfers and real RQ jobs; afterwards: is every cent still there?
    crew.py      worker processes, held still and let go at one instant
    report.py, chart.py, machine.py  the table, the picture, and on what it was measured
    picture.py, terminal.py  something else: the recording in the README (``make picture``)
"""
