"""What operators see: metrics, a line for each request, traces."""
