"""Which worker answers a request, and when."""
