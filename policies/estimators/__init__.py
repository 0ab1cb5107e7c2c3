"""Estimators expect quality and cost of every arm on one query."""
