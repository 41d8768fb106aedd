"""What callers can have done, whatever face they come by: money moved, a wallet read, a job followed."""
