"""Published models as data: configurations, key maps and reported numbers."""
