"""Ray's token: taken as it is set up, made for a cluster of this process's own, and told of where it is refused.

No token is ever part of a message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

_MODE, _TOKEN, _PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_HOW = (
    f"Set {_MODE}=token and give the token the cluster was started with: in {_TOKEN}, in the file that {_PATH} names, "
    "or in ~/.ray/auth_token. `ray get-auth-token` on the cluster's head shows it"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Ray logs short of an error off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def use_token() -> bool:
    """Show a token that is set up from now on; what `RAY_AUTH_MODE` says goes before. Whether one is to be shown."""
    with quiet():
        return bool(maybe_enable_token_auth_if_token_available(warn_if_disabled=False))


@contextmanager
def own_token() -> Iterator[None]:
    """A token for a cluster that ends with the context, unless one is set up: Ray would write one below $HOME."""
    loader = AuthenticationTokenLoader.instance()
    if os.environ.get(_MODE, "token").lower() != "token" or _PATH in os.environ or _has_token(loader):
        yield
        return
    os.environ[_TOKEN] = generate_new_authentication_token()
    loader.reset_cache()
    try:
        yield
    finally:
        del os.environ[_TOKEN]
        loader.reset_cache()


def missing_token() -> str:
    """What to say of a cluster that was given no token and wants one."""
    return f"401: the cluster wants a token and got none. {_HOW}"


def refused_token() -> str:
    """What to say of a cluster that takes another token."""
    return f"403: the cluster refuses the token from {_given()}. {_HOW}"


def unread_token() -> str:
    """What to say where Ray is told to show a token and finds none."""
    return f"there is no token to be read from {_given()}. {_HOW}"


def has_token() -> bool:
    """Whether one is set up and used."""
    return os.environ.get(_MODE, "").lower() == "token" and _has_token(AuthenticationTokenLoader.instance())


def _has_token(loader: AuthenticationTokenLoader) -> bool:
    return bool(loader.has_token(ignore_auth_mode=True))


def _given() -> str:
    return next((name for name in (_TOKEN, _PATH) if name in os.environ), "the file ~/.ray/auth_token")
