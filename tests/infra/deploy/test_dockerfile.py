"""The image: pinned, without secrets, not root."""

import re
import shlex

import pytest

from tests.infra.deploy.conftest import DEPLOY, ROOT

IGNORED = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")


def instructions():
    """(word, rest) of every instruction, continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def rests(word):
    return [rest for one, rest in instructions() if one == word]


def test_base_images_are_pinned():
    arguments = dict(rest.split("=", 1) for rest in rests("ARG"))
    stages = set()
    for rest in rests("FROM"):
        image, *alias = rest.split(" AS ")
        image = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], image)
        if image not in stages:
            name, _, tag = image.rpartition(":")
            assert name == "nvidia/cuda"
            assert re.fullmatch(r"\d+\.\d+\.\d+-(base|runtime)-ubuntu\d\d\.04", tag)
        stages.update(alias)


def test_the_last_user_is_not_root():
    stages = [index for index, (word, _) in enumerate(instructions()) if word == "FROM"]
    last = instructions()[stages[-1] :]
    users = [rest for word, rest in last if word == "USER"]
    assert users
    assert users[-1].split(":")[0] not in ("root", "0")
    (user,) = [index for index, (word, _) in enumerate(last) if word == "USER"]
    assert not [word for word, _ in last[user:] if word in ("RUN", "COPY", "ADD")]


def test_python_packages_are_pinned():
    installs = [part for rest in rests("RUN") for part in rest.split("&&") if "pip install" in part]
    assert installs
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "infra/constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for install in installs:
        words = shlex.split(install)
        assert words[words.index("--constraint") + 1] == "infra/constraints.txt"
        named = [word for word in words[words.index("install") + 1 :] if re.fullmatch(r"[a-z]\w+", word)]
        assert set(named) <= set(pinned)


def test_debian_packages_come_lean_and_leave_no_lists():
    for rest in rests("RUN"):
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


def test_nothing_secret_gets_in():
    assert rests("ADD") == []
    for rest in rests("ENV") + rests("ARG"):
        assert not re.search(r"token|secret|password|credential|_key", rest, re.IGNORECASE)
    for rest in rests("COPY"):
        if not rest.startswith("--from="):
            sources = rest.split()[:-1]
            for source in sources:
                assert (ROOT / source).exists()
                assert f"!{source}" in IGNORED
    assert IGNORED[1] == "*"
    assert not [line for line in IGNORED if line.startswith("!") and not (ROOT / line[1:]).exists()]


@pytest.mark.parametrize("word", ["HEALTHCHECK", "ENTRYPOINT", "CMD"])
def test_runs_by_itself(word):
    assert len(rests(word)) == 1


def test_health_is_that_of_the_ray_node():
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

    (check,) = rests("HEALTHCHECK")
    assert f"http://127.0.0.1:{DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}/api/local_raylet_healthz" in check
    assert ("procps" in " ".join(rests("RUN"))) == ("pgrep" in check)
