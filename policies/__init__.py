"""Policies choose: estimators, pacers and explorers in numpy, knowing nothing of the gateway."""
