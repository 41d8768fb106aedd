"""What is asked for, one file a thing: parse, call one function, answer."""
