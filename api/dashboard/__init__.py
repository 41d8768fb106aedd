"""rq-dashboard for administrators, made safe to look at."""
