"""Load and murder: the whole service under both at once, and then the books.

``make chaos`` runs it for a minute; ``test_chaos.py`` runs a shorter one. The seed decides what is asked (what is given
back or called off by what was answered before) and what is killed when; how processes interleave is up to the machine.

Clients (:mod:`.client`, what they draw: :mod:`.drawing`) ask for deposits, withdrawals and transfers by both faces, and
by REST for reversals, plans, cancellations and bulks, while wallets are frozen (:mod:`.freezer`) and the feed is read
(:mod:`.follower`). Then what they were told is held against the service and its books (:mod:`.audit`): each order and
the feed (:mod:`.judging`), what undoes or puts off (:mod:`.undoing`), what was sent at once (:mod:`.bulks`), and what
was frozen (:mod:`.frozen`).
"""
