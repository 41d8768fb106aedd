"""Sending events to whoever wants them: what is due, whom it may reach, how it is signed, and what the answer means."""
