"""The report as one HTML page that needs nothing but itself: charts in SVG, tables, a few lines of script."""
