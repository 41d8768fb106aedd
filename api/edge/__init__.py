"""What every request and every response goes through, whoever asks and whatever for."""
