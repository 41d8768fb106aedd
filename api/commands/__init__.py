"""``flask …``: parse, call one thing, print. Answers go to standard output, what is said of them to standard error."""
