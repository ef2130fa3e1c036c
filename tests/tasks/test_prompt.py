import asyncio
import threading
import time

import pytest

from corm_batch.data.document import Document
from corm_batch.data.template import render
from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks import prompt
from corm_batch.tasks.base import Task
from corm_batch.tasks.prompt import PromptTask

TOGETHER = "overflow: map_reduce and reduce_template come together"


def prompt_task(template, **fields):
    return Task.from_spec({"name": "prompt", "template": template, "overflow": "truncate", **fields})


def test_template_over_the_rows_columns(fake_asker, answer):
    task = prompt_task("{{ doc_id }}: {{ title }}\n{{ text }}{% if note %} ({{ note }}){% endif %}\n")
    assert task.source_columns == ["note", "title"]
    asker = fake_asker(lambda prompt: "fine")
    result = answer(task, asker, "the text", title="T", note=None)
    assert (asker.prompts[0].text, asker.prompts[0].instruction) == ("", "doc: T\nthe text\n")
    assert result.output == "fine"


def test_a_column_may_be_called_like_a_function_of_jinjas(fake_asker, answer):
    with pytest.raises(SpecError, match="a value it prints is a function"):
        prompt_task("{% for i in range(2) %} {{ i }}{% endfor %}{{ range }} {{ text }}")
    with pytest.raises(SpecError, match=r"self is a word of Jinja's: a column of that name is row\[\"self\"\]"):
        prompt_task("{{ self }} {{ text }}")
    task = prompt_task("{{ range }} {{ dict | upper }} {{ row['self'] }} {{ text }}")
    asker = fake_asker(lambda prompt: "fine")
    answer(task, asker, "the text", range="1-3", dict="ox", self="me")
    assert asker.prompts[0].instruction == "1-3 OX me the text"


def test_parts_of_a_column_may_be_called_like_methods(fake_asker, answer):
    task = prompt_task("{{ order.items | join('+') }} {{ row['order'].values }} {{ text }}")
    asker = fake_asker(lambda prompt: "fine")
    answer(task, asker, "the text", order={"items": ["a", "b"], "values": 3})
    assert asker.prompts[0].instruction == "a+b 3 the text"
    with pytest.raises(DocumentError, match=r"values is a method of dict, not a column or a part of one$"):
        answer(task, asker, "the text", order={"items": ["a", "b"]})
    answer(
        prompt_task("{% for k, v in order.items() %}{{ k }}={{ v }} {% endfor %}{{ text }}"), asker, "x", order={"a": 1}
    )
    assert asker.prompts[-1].instruction == "a=1 x"


def test_text_is_never_a_template(fake_asker, answer):
    asker = fake_asker(lambda prompt: "fine")
    answer(prompt_task("{{ text }}"), asker, "{{ 7 * 7 }} {% raw %}")
    assert asker.prompts[0].instruction == "{{ 7 * 7 }} {% raw %}"


def test_truncate_cuts_the_text_not_the_template(fake_asker, answer):
    asker = fake_asker(lambda prompt: "fine", context=50)
    answer(prompt_task("<{{ text }}>", max_new_tokens=10), asker, "y" * 60)
    assert asker.prompts[0].instruction == "<" + "y" * 38 + ">"


def test_windows_are_asked_and_their_answers_combined_group_by_group(fake_asker, answer):
    task = prompt_task(
        "map {{ text }}",
        reduce_template="{{ title }}: {{ outputs | join(',') }}",
        overflow="map_reduce",
        max_new_tokens=10,
    )
    assert task.source_columns == ["title"]
    count = iter(range(100))
    asker = fake_asker(lambda prompt: f"answer{next(count)}", context=44)  # windows of 30, reductions of 34
    result = answer(task, asker, "x" * 130, title="T")
    reductions = [prompt.instruction for prompt in asker.prompts if prompt.instruction.startswith("T: ")]
    assert reductions == ["T: answer0,answer1,answer2,answer3", "T: answer4", "T: answer5,answer6"]
    assert (result.output, result.pieces) == ("answer7", 8)


def test_answers_too_long_to_combine_end_with_a_reason(fake_asker, answer):
    task = prompt_task("{{ text }}", reduce_template="{{ outputs }}", overflow="map_reduce", max_new_tokens=20)
    asker = fake_asker(lambda prompt: "z" * 15, context=45)
    with pytest.raises(AnswerError, match="no two of the 3 windows' answers fit"):
        answer(task, asker, "x" * 60)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ title }}", "null"),
        ("{{ text.nothing }}", "UndefinedError"),
        ("{{ 1 / (text | length - 4) }}", "ZeroDivisionError"),
        ("{{ text.__class__.__mro__ }}", "SecurityError"),
        ("{% for i in range((text | length) * 10**7) %}{% endfor %}", "OverflowError"),
    ],
)
def test_a_row_that_does_not_suit_the_template_fails_alone(template, said, fake_asker, answer):
    with pytest.raises(DocumentError, match=rf"task\.template cannot be rendered: .*{said}"):
        answer(prompt_task(template), fake_asker(lambda prompt: "fine"), "text", title=None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": "{{ text "}, r"task\.template: no valid template: "),
        ({"template": "{% include 'x' %}{{ text | nofilter }}"}, r"task\.template: no valid template: .*nofilter"),
        ({"template": ""}, r"task\.template: "),
        ({"template": "{{ publish-date }}"}, r'publish-date is publish minus date: .*row\["publish-date"\]'),
        ({"template": "{{ text }} {{ Author Name }}"}, r'no valid template: .*row\["any name"\]'),
        (
            {"template": "{{ text }}", "overflow": "map_reduce"},
            TOGETHER,
        ),
        ({"template": "{{ text }}"}, TOGETHER),
        (
            {"template": "{{ text }}", "overflow": "error", "reduce_template": "{{ outputs }}"},
            TOGETHER,
        ),
        ({"template": "{{ text }}", "reduce_template": "{{ text }}"}, "reduce_template must use outputs"),
        ({"template": "{{ text }}", "reduce_template": "{% for %}"}, r"task\.reduce_template: no valid template"),
        ({"template": "{{ text }}{{ 1 / 0 }}"}, r"task\.template: it can be rendered for no document: ZeroDivision"),
        ({"template": "{{ text }}{{ 'a' * 20000000 }}"}, r"20,000,000 characters, of which there may be"),
        (
            {"template": "{{ text }}", "reduce_template": "{{ outputs }}{{ 'a' * 10**10 }}"},
            r"task\.reduce_template: it can be rendered for no document: MemoryError",
        ),
    ],
)
def test_templates_are_checked_at_load(fields, said):
    with pytest.raises(SpecError, match=said):
        Task.from_spec({"name": "prompt", **fields})


def test_the_class_is_found_by_name():
    assert Task.registered()["prompt"] is PromptTask


def test_a_column_of_any_name_is_reached_through_row(fake_asker, answer):
    task = prompt_task("{{ row['publish-date'] }} {{ row[\"Author Name\"] }} {{ row['class'] }} {{ text }} {{ 7 - 2 }}")
    assert task.source_columns == ["Author Name", "class", "publish-date"]
    asker = fake_asker(lambda prompt: "fine")
    answer(task, asker, "the text", **{"publish-date": "2020-01-01", "Author Name": "Ann", "class": "x"})
    assert asker.prompts[0].instruction == "2020-01-01 Ann x the text 5"


def test_a_column_may_itself_be_called_row(fake_asker, answer):
    task = prompt_task("{{ row }} {{ row['a'] }}")
    assert task.source_columns == ["row"]
    asker = fake_asker(lambda prompt: "fine")
    answer(task, asker, "text", row={"a": 1})
    assert asker.prompts[0].instruction == "{'a': 1} 1"


def test_a_template_of_any_size_is_read_at_once():
    began = time.process_time()
    prompt_task("{% if text %}{{ 'a' * 10**10 }}{% if 'b' | center(10**10) %}{% endif %}{% endif %}")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("overflow", ["truncate", "map_reduce"])
def test_whoever_renders_leaves_the_event_loop_to_others(overflow, fake_asker, monkeypatch):
    """The whole text, windows and answers: nothing is rendered before the event loop has come round meanwhile."""
    began, came_round, waited = threading.Event(), threading.Event(), []

    class Patient:
        def problem_with_every_row(self, template):
            return None

        def render(self, template, columns, *, called):
            came_round.clear()
            began.set()
            waited.append(came_round.wait(5))
            return render(template, columns, 1000)[1]

    async def others():
        while True:
            if began.is_set():
                began.clear()
                came_round.set()
            await asyncio.sleep(0.001)

    async def run():
        other = asyncio.create_task(others())
        result = await task.run(Document("doc", "x" * 60), fake_asker(lambda _: "z" * 4, context=20))
        other.cancel()
        return result

    monkeypatch.setattr(prompt, "_RENDERER", Patient())
    reduce_template = "{{ outputs | join }}" if overflow == "map_reduce" else None
    task = PromptTask(template="{{ text }}", reduce_template=reduce_template, overflow=overflow, max_new_tokens=4)
    result = asyncio.run(run())
    assert result.pieces == (5 if overflow == "map_reduce" else 1)  # four windows and what they say
    assert len(waited) > 2
    assert all(waited)


def test_nothing_more_is_rendered_once_nobody_waits(fake_asker, monkeypatch):
    """A document that is over its time limit while its thread renders: the next window is not put into the template."""
    rendered, go_on = [], threading.Event()

    class Slow:
        def render(self, template, columns, *, called):
            rendered.append(columns["text"])
            go_on.wait(10)
            return "much" * 10

    monkeypatch.setattr(prompt, "_RENDERER", Slow())
    task = PromptTask.model_construct(template="{{ text }}", overflow="truncate", max_new_tokens=4)

    async def run():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await task.run(Document("doc", "x" * 60), fake_asker(lambda _: "", context=20))
        go_on.set()

    asyncio.run(run())
    assert rendered == ["x" * 60]


@pytest.mark.parametrize(
    ("template", "here", "there"),
    [
        ("Q: {{ title }}?\n{{ text }}\nA:", "Q: T?\nA story.\nA:", "Q: T?\nx x x x \nA:"),
        ("{{ text[:3] | upper }} {{ title }}", "A S T", "X X T"),
        ("{% if text | length > 7 %}Briefly{% endif %}: {{ text }}", "Briefly: A story.", "Briefly: x x x x "),
    ],
)
def test_a_template_about_another_text_says_the_same_of_it(template, here, there, fake_asker, answer):
    asker = fake_asker(lambda prompt: "fine")
    answer(prompt_task(template), asker, "A story.", title="T")
    assert asker.prompts[0].instruction == here
    assert asker.prompts[0].about_another_text().instruction == there


def test_a_reduction_of_other_answers_says_the_same_of_them(fake_asker, answer):
    fields = {"reduce_template": "{{ title }}: {{ outputs | join(',') }}.", "overflow": "map_reduce"}
    asker = fake_asker(lambda prompt: "seen", context=44)
    answer(prompt_task("map {{ text }}", max_new_tokens=10, **fields), asker, "y" * 60, title="T")
    reduction = asker.prompts[-1]
    assert (reduction.instruction, reduction.about_another_text().instruction) == ("T: seen,seen.", "T: x x ,x x .")


def test_a_template_that_only_its_own_text_suits_is_an_error_of_the_document(fake_asker, answer):
    asker = fake_asker(lambda prompt: "fine")
    answer(prompt_task("{{ {'a b': 'fine'}[text] }}"), asker, "a b")
    with pytest.raises(DocumentError, match=r"task.template cannot be rendered"):
        asker.prompts[0].about_another_text()
    assert not prompt_task("{{ title }}").tells_text
    assert prompt_task("{{ row['text'] }}").tells_text


SHOTS = [
    {"role": "system", "content": "Answer {{ tone }}."},
    {"role": "user", "content": "A dog. What is it?"},
    {"role": "assistant", "content": "An animal."},
    {"role": "user", "content": "{{ text }} What is it?"},
]


def shots(**fields):
    return Task.from_spec({"name": "prompt", "messages": SHOTS, "overflow": "truncate", **fields})


def test_messages_are_a_chat_of_templates(fake_asker, answer):
    task, asker = shots(max_new_tokens=10), fake_asker(lambda prompt: "fine", context=78)
    assert (task.source_columns, task.tells_text) == (["tone"], True)
    assert Task.from_spec(task.to_spec()) == task
    answer(task, asker, "An oak and more.", tone="briefly")
    (prompt,) = asker.prompts
    assert [tuple(one) for one in prompt.messages] == [
        ("system", "Answer briefly."),
        ("user", "A dog. What is it?"),
        ("assistant", "An animal."),
        ("user", "An oak and mo What is it?"),  # cut as a template's text is
    ]
    other = prompt.about_another_text()
    assert (other.messages[:3], other.messages[3].content) == (prompt.messages[:3], "x x x x x x x What is it?")


def test_windows_of_messages_are_reduced_by_a_template(fake_asker, answer):
    task = shots(overflow="map_reduce", reduce_template="{{ outputs | join('+') }}", max_new_tokens=10, logprobs=0)
    asker = fake_asker(lambda prompt: "a" if prompt.messages else prompt.instruction, context=80)
    result = answer(task, asker, "z" * 20, tone="briefly")
    assert (result.output, result.pieces, result.columns) == ("a+a", 3, {"logprobs": [None]})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"template": "{{ text }}"}, "exactly one of template and messages"),
        ({"messages": []}, "exactly one of template and messages"),
        ({"messages": [{"role": "usr", "content": "x"}]}, r"task\.messages\.0\.role: "),
        ({"messages": [{"role": "user", "content": "{{ x"}]}, r"task\.messages\.0\.content: no valid template"),
        ({"messages": [{"role": "user", "content": "{{ x }}", "name": "n"}]}, r"task\.messages\.0\.name: unknown key"),
    ],
)
def test_messages_that_cannot_be_are_refused(fields, problem):
    with pytest.raises(SpecError, match=problem):
        shots(**fields)


def test_a_message_that_cannot_be_rendered_is_named(fake_asker, answer):
    with pytest.raises(DocumentError, match=r"task\.messages\[0\]\.content cannot be rendered"):
        answer(shots(), fake_asker(lambda prompt: "fine"), "text", tone=None)
