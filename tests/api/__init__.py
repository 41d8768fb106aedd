"""The contract over HTTP, as something that can fail."""
