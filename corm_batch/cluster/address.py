"""DashboardAddress: where a Ray cluster takes jobs, checked. Knows nothing of reaching it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_URL = re.compile(r"^https?://[^\s/@?#]+/?$")
_ALLOWED = "expected the URL of the cluster's dashboard, such as http://127.0.0.1:8265"


def valid_address(address: str) -> str:
    """`address` without a slash at its end, once it is known to be a URL without credentials.

    Raises:
        ValueError: what is allowed.
    """
    if "@" in address:
        raise ValueError(f"credentials in a URL: Ray takes its token from the environment; {_ALLOWED}")
    if not _URL.match(address):
        raise ValueError(_ALLOWED)
    return address.rstrip("/")


DashboardAddress = Annotated[str, AfterValidator(valid_address)]
