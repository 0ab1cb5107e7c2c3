"""Pacers price money: a tenant's budget and an arm's own capacity become 1/USD."""
