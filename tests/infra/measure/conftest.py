"""The performance table is made of results of the benchmark: those its own tests are made of."""

from tests.bench.conftest import make_result, make_row, small

__all__ = ["make_result", "make_row", "small"]
