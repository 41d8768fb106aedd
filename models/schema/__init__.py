"""The tables, who may do what with them, and the migrations that make them."""
