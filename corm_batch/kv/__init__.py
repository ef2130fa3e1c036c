"""Where entries live: pages, tables, bytes."""
