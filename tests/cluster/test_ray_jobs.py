"""RayJobs against a stand-in for Ray's client; tests/cli/test_submit.py has the real one."""

from itertools import chain, repeat
from pathlib import Path
from random import Random

import pytest
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from corm_batch.cluster import ray_jobs
from corm_batch.cluster.ray_jobs import RayJobs, job_id
from corm_batch.errors import ClusterError, SpecError
from corm_batch.spec import JobSpec


class Client:
    """A cluster on which nothing happens by itself."""

    def __init__(self):
        self.details = {}
        self.shipped = []
        self.log = ""
        self.breaks = []

    def list_jobs(self):
        other = {"type": JobType.DRIVER, "status": JobStatus.RUNNING, "entrypoint": "x", "metadata": None}
        return [*self.details.values(), JobDetails(**other)]

    def add(self, id_, status=JobStatus.RUNNING, **fields):
        fields = {"start_time": 1000 * (len(self.details) + 1), "metadata": {"corm_batch_output": "/out"}} | fields
        self.details[id_] = JobDetails(
            type=JobType.SUBMISSION, submission_id=id_, status=status, entrypoint="x", **fields
        )

    def submit_job(self, *, submission_id, metadata, runtime_env, entrypoint):
        if submission_id in self.details:
            raise RuntimeError(f"Traceback\nValueError: Job with submission_id {submission_id} already exists. Please")
        folder = Path(runtime_env["working_dir"])
        files = {path.name: path.read_text() for path in folder.rglob("*")}
        self.shipped.append((entrypoint, files, runtime_env["env_vars"], metadata))
        self.add(submission_id, metadata=metadata)

    def stop_job(self, id_):
        self.add(id_, JobStatus.STOPPED)

    def get_job_logs(self, id_):
        return self.log

    async def tail_job_logs(self, id_):
        """The log in pieces; breaks off where `breaks` says, once each."""
        end = self.breaks.pop(0) if self.breaks else None
        random = Random(id_)
        position, text = 0, self.log[:end]
        while position < len(text):
            step = random.randint(1, 7)
            yield text[position : position + step]
            position += step
        if end is not None:
            raise ConnectionResetError("gone")


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr(ray_jobs, "connect", lambda address: client)
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda seconds: None)
    return client


@pytest.fixture
def jobs(client):
    return RayJobs("http://head:8265")


def end(client, id_, status=JobStatus.SUCCEEDED, **fields):
    client.add(id_, status, metadata=client.details[id_].metadata, **fields)


def test_only_the_spec_is_shipped(client, jobs, job, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    spec = job({"a": "text"}, cluster={"address": "auto", "replicas": 2})
    submitted, new = jobs.submit(spec, retry_failed=True)
    assert (submitted.name, submitted.output_uri, submitted.state, new) == ("job", spec.output.uri, "running", True)
    ((entrypoint, files, variables, metadata),) = client.shipped
    assert entrypoint == "exec corm-batch run job.yaml --retry-failed"
    assert list(variables) == ["RAY_JOB_STOP_WAIT_TIME_S"]
    assert metadata == {"corm_batch_name": "job", "corm_batch_output": spec.output.uri}
    assert list(files) == ["job.yaml"]
    assert "canary" not in files["job.yaml"]
    (spec_file,) = files.values()
    Path(spec.output.uri).mkdir()
    path = Path(spec.output.uri) / "job.yaml"
    path.write_text(spec_file)
    shipped = JobSpec.load(str(path))
    assert shipped.cluster.address is None
    assert shipped.model_copy(update={"cluster": spec.cluster}) == spec


def test_the_same_job_is_recognised(client, jobs, job):
    spec = job({"a": "text"})
    first, new = jobs.submit(spec)
    assert new
    assert jobs.submit(spec) == (first, False)
    assert jobs.submit(job({"a": "text"}, cluster={"address": "head:6379"})) == (first, False)
    other, new = jobs.submit(job({"a": "text"}, task={"max_new_tokens": 9}))
    assert new
    assert other.id != first.id
    again, new = jobs.submit(spec, retry_failed=True)
    assert new
    assert again.id not in (first.id, other.id)
    assert len(client.shipped) == 3


def test_a_cluster_whose_agents_are_not_up_is_waited_for_and_named(client, jobs, job, monkeypatch):
    clock, submit, refusals = [0.0], client.submit_job, [2]
    monkeypatch.setattr(ray_jobs.time, "monotonic", lambda: clock[0])

    def refuse(**request):
        refusals[0] -= 1
        clock[0] += 5.0
        if refusals[0] >= 0:
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try again."
            )
        submit(**request)

    monkeypatch.setattr(client, "submit_job", refuse)
    assert jobs.submit(job({"a": "text"}))[1]
    refusals[0] = 1000
    with pytest.raises(ClusterError, match="http://head:8265: the cluster answers, but none of its nodes has an agent"):
        jobs.submit(job({"b": "text"}, task={"max_new_tokens": 9}))
    assert refusals[0] > 990


def test_what_has_ended_is_attempted_again(client, jobs, job):
    spec = job({"a": "text"})
    first = job_id(spec, retry_failed=False)
    client.add(f"{first}-x")
    client.add(f"{first}0")
    for attempt in (first, *(f"{first}-{number}" for number in range(2, 12))):
        submitted, new = jobs.submit(spec)
        assert (submitted.id, new) == (attempt, True)
        assert jobs.submit(spec) == (submitted, False)
        end(client, attempt)


def test_who_comes_second_gets_the_firsts_job(client, jobs, job, monkeypatch):
    spec = job({"a": "text"})
    client.add(job_id(spec, retry_failed=False))
    looks = chain([[]], repeat(client.list_jobs()))  # the first one comes too early to see it
    monkeypatch.setattr(client, "list_jobs", lambda: next(looks))
    submitted, new = jobs.submit(spec)
    assert (submitted.id, new, client.shipped) == (job_id(spec, retry_failed=False), False, [])


@pytest.mark.parametrize(
    ("status", "code", "state", "exit_code"),
    [
        (JobStatus.PENDING, None, "pending", None),
        (JobStatus.RUNNING, None, "running", None),
        (JobStatus.SUCCEEDED, 0, "ok", 0),
        (JobStatus.FAILED, 3, "failed documents", 3),
        (JobStatus.FAILED, 4, "stopped", 4),
        (JobStatus.FAILED, 130, "cancelled", 130),
        (JobStatus.STOPPED, None, "cancelled", 130),
        (JobStatus.FAILED, 2, "failed", 2),
        (JobStatus.FAILED, 1, "failed", 1),
        (JobStatus.FAILED, -9, "failed", 1),
        (JobStatus.FAILED, None, "failed", 1),
    ],
)
def test_states(client, jobs, status, code, state, exit_code):
    client.add("a", status, driver_exit_code=code, end_time=3000, message="why")
    job = jobs.job("a")
    assert (job.state, job.exit_code, job.seconds) == (state, exit_code, 2.0)
    assert job.reason == ("why" if state == "failed" else "")
    assert job.active == (exit_code is None)


def test_a_cluster_without_corm_batch_is_named(client, jobs):
    client.add("a", JobStatus.FAILED, driver_exit_code=127, message="exec: corm-batch: not found")
    assert jobs.job("a").reason.startswith("corm-batch is not on the PATH")


def test_newest_first_and_only_ours(client, jobs):
    for name in "abc":
        client.add(name)
    assert [job.id for job in jobs.jobs()] == ["c", "b", "a"]
    with pytest.raises(SpecError, match=r"no job at http://head:8265 is called 'd'; there are: c, b, a"):
        jobs.job("d")


@pytest.mark.parametrize("seed", range(5))
def test_following_survives_broken_connections(client, jobs, seed):
    random = Random(seed)
    client.log = "".join(random.choice("abc é\n") for _ in range(200))
    client.breaks = [random.randint(0, 200) for _ in range(random.randint(0, 4))]
    client.add("a", JobStatus.SUCCEEDED)
    assert "".join(jobs.follow("a")) == client.log
    assert client.breaks == []


def test_following_goes_on_until_the_job_has_ended(client, jobs):
    client.add("a")
    client.log = "first\n"
    followed = []
    for piece in jobs.follow("a"):
        followed.append(piece)
        if "".join(followed) == "first\n":
            client.log += "last\n"
            client.add("a", JobStatus.SUCCEEDED)
    assert "".join(followed) == "first\nlast\n"


def test_following_gives_up_when_the_cluster_stays_away(client, jobs, monkeypatch):
    monkeypatch.setattr(ray_jobs, "_AWAY_S", -1.0)
    client.add("a")
    client.breaks = [0]
    with pytest.raises(ClusterError, match=r"http://head:8265: .*gone"):
        list(jobs.follow("a"))


def test_following_ends_when_the_cluster_has_forgotten_the_job(client, jobs):
    client.add("a")
    client.log = "first\n"
    client.breaks = [3]
    followed = jobs.follow("a")
    assert "first".startswith(next(followed))
    client.details.clear()
    with pytest.raises(ClusterError, match=r"has forgotten a, for its head was started anew.*submit the job again"):
        list(followed)


def test_cancel(client, jobs, monkeypatch):
    client.add("a")
    job, stopped = jobs.cancel("a")
    assert (job.state, stopped) == ("cancelled", True)
    assert jobs.cancel("a") == (job, False)
    client.add("b")
    monkeypatch.setattr(client, "stop_job", lambda id_: None)
    monkeypatch.setattr(ray_jobs, "_STOP_S", -1)
    with pytest.raises(ClusterError, match="b: was told to stop and is still running"):
        jobs.cancel("b")
