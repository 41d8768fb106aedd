"""What every response says to browsers and to caches on the way."""

# A page that needs more (its own scripts, say) brings its own value, which then stands.
DEFAULTS = (
    # Balances stay out of every cache.
    ("Cache-Control", "no-store"),
    # Nothing here is a page: nothing in it is to be run, shown, or shown within something else.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)
# Said to who has come by HTTPS: to come by nothing else from now on.
HSTS = ("Strict-Transport-Security", "max-age=31536000")
