"""A file of somebody's own becomes a plug-in: in this process, and in one that knows only what was pickled."""

import pickle
import subprocess
import sys

import pytest

import corm_batch
from corm_batch.errors import SpecError
from corm_batch.plugin_file import PluginFile
from corm_batch.policies.base import KVPolicy
from corm_batch.registry import INITIAL_VERSION, plugin_files
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Task

pytestmark = pytest.mark.usefixtures("leave_no_plugin")

FIRST = '''
from pydantic import Field

from corm_batch import KVPolicy

class First(KVPolicy, name="outside_first"):
    """Keeps all of it."""
    size: int = Field(3, ge=1)

class NotForSale(First):
    pass
'''


@pytest.fixture
def write(tmp_path):
    def make(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return make


def test_a_file_registers_what_it_defines_and_its_fields_are_checked(write):
    (first,) = corm_batch.load_plugin(write(FIRST))
    assert KVPolicy.registered()["outside_first"] is first
    assert KVPolicy.from_spec({"name": "outside_first", "size": 5}).size == 5
    with pytest.raises(SpecError, match=r"policy\.size: .* greater than or equal to 1, got 0"):
        KVPolicy.from_spec({"name": "outside_first", "size": 0})
    assert corm_batch.load_plugin(write(FIRST)) == (first,)


def test_what_changes_in_the_text_is_another_version_unless_the_plugin_says_its_own(write):
    (first,) = corm_batch.load_plugin(write(FIRST))
    (second,) = corm_batch.load_plugin(write(FIRST.replace("Field(3", "Field(4")))
    assert KVPolicy.from_spec({"name": "outside_first"}).size == 4
    assert len({INITIAL_VERSION, first.version, second.version}) == 3
    own = FIRST.replace("    size", "    version = 7\n    size")
    assert corm_batch.load_plugin(write(own))[0].version == 7
    assert corm_batch.load_plugin(write(FIRST)) == (first,)
    assert KVPolicy.registered()["outside_first"] is first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"mine\.py: defines no plug-in: no subclass, with a name, of .*KVPolicy.*Task"),
        ("def f(:", r"mine\.py: SyntaxError: invalid syntax \(mine\.py, line 1\)|mine\.py: SyntaxError: "),
        ("import no_such_module_here", r"mine\.py: ModuleNotFoundError: No module named 'no_such_module_here'"),
        (FIRST.replace("outside_first", "corm"), r"mine\.py: ValueError: two policy plug-ins are called 'corm'"),
        (FIRST + "\nraise KeyError('late')", r"mine\.py: KeyError: 'late'"),
    ],
)
def test_a_file_that_is_no_plugin_is_told_and_leaves_nothing_behind(write, text, message):
    known = set(KVPolicy.registered())
    with pytest.raises(SpecError, match=message):
        corm_batch.load_plugin(write(text))
    assert set(KVPolicy.registered()) == known


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SpecError, match=r"nothing\.py: cannot read the plug-in: "):
        corm_batch.load_plugin(str(tmp_path / "nothing.py"))


def test_another_process_needs_only_what_was_pickled(write, tmp_path):
    path = write(FIRST)
    corm_batch.load_plugin(path)
    content = pickle.dumps(KVPolicy.from_spec({"name": "outside_first", "size": 8}))
    write("raise SystemExit('was read again')")
    code = (
        "import pickle, sys; from corm_batch.policies.base import KVPolicy; "
        "policy = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "assert KVPolicy.from_spec({'name': 'outside_first', 'size': 8}) == policy; "
        "print(policy.name, policy.size, type(policy).version, policy.expiry.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, content.hex()], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["outside_first", "8", PluginFile(path, FIRST).digest, "expiry"]
    assert pickle.loads(pickle.dumps(KVPolicy.from_spec({"name": "corm"}))) == KVPolicy.from_spec({"name": "corm"})


def test_the_files_of_a_spec_are_those_its_sections_use(write, tmp_path):
    corm_batch.load_plugin(write(FIRST))
    corm_batch.load_plugin(write(FIRST.replace("outside_first", "outside_other"), "other.py"))
    sections = {
        "name": "job",
        "model": {"name": "m"},
        "source": {"name": "parquet", "uri": "in"},
        "task": {"name": "summarize"},
        "output": {"uri": "out"},
    }
    spec = JobSpec.from_mapping(sections | {"policy": {"name": "outside_first"}})
    assert [file.source for file in plugin_files(spec)] == [FIRST]
    assert plugin_files(JobSpec.from_mapping(sections | {"policy": {"name": "corm"}})) == ()


def test_an_installed_package_names_its_plugins_and_a_broken_one_stops_nobody_else(tmp_path):
    """Entry points are read once a process, hence another one."""
    (tmp_path / "good_tasks.py").write_text(
        "from corm_batch import Task\n"
        "class Mine(Task, name='mine'):\n"
        "    '''Says nothing.'''\n"
        "    async def run(self, document, asker): ...\n"
    )
    folder = tmp_path / "good-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: good\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[corm_batch.tasks]\nmine = good_tasks\ngone = no_such_module_here\n")
    code = (
        "from corm_batch.tasks.base import Task\n"
        "assert type(Task.from_spec({'name': 'mine'})).version == 1\n"
        "assert 'summarize' in Task.registered()\n"
        "try: Task.from_spec({'name': 'gone'})\n"
        "except ValueError as error: print(error)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "mine: Says nothing." in done.stdout
    assert "cannot be imported: gone (no_such_module_here) of good: ModuleNotFoundError" in done.stdout
    assert "mine" not in Task.registered()
