"""The stores of tests/stores, for worlds."""

from tests.stores.conftest import anyio_backend, redis_keeps_the_tests_time, redis_process

__all__ = ["anyio_backend", "redis_keeps_the_tests_time", "redis_process"]
