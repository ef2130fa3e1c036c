"""Documents in, Arrow schemas out."""
