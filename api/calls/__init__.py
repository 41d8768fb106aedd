"""One call, whatever face it comes by: what is known of it, and how it can fail."""
