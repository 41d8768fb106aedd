"""HTTP: parse, call one thing, answer. The only place that knows Flask."""
