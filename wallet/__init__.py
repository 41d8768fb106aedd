"""Generated code, by the name that others know the service by. `make proto` writes it; nothing is changed by hand."""
