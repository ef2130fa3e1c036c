"""How many entries each layer and head may hold; one published allocation a file."""
