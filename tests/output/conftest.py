"""S3 on loopback, with and without faults, for the tests of this room."""

from tests.data.conftest import bucket, place, proxy, s3_client  # noqa: F401
